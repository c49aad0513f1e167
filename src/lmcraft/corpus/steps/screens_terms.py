"""Words of the screens, written for this project. Nothing in here may fire on the name of a group of people.

A term counts by itself only where hardly any use of it is neutral. A verb such as *kill* is no term: it only leads to a
look at its neighbours (see `screens`). Slurs count, for they insult whomever they name; words that groups use of
themselves (*queer*, *gay*, *Black*, *disabled* ...) are names and are in `IDENTITIES`.
"""

from __future__ import annotations

from collections.abc import Iterator


def _weights(table: str) -> Iterator[tuple[str, float]]:
    for line in table.strip().splitlines():
        weight, _, words = line.partition(": ")
        yield from ((word, float(weight)) for word in words.split())


TOXIC = dict(
    _weights("""
1.0: beaner beaners faggot faggots faggy gook gooks jigaboo jigaboos kike kikes nigga niggas nigger niggers
1.0: paki pakis raghead ragheads retard retards sandnigger shemale shemales spic spics towelhead towelheads
1.0: trannies tranny wetback wetbacks
0.5: arsehole arseholes asshole assholes bitches cocksucker cocksuckers cunt cunts dickhead dickheads dipshit
0.5: dipshits douchebag douchebags dumbass dumbasses fuckface fuckhead fuckheads fuckwit fuckwits kys
0.5: motherfucker motherfuckers motherfuckin motherfucking scumbag scumbags shitbag shithead shitheads slut
0.5: sluts slutty twat twats wanker wankers
0.4: bitch mongoloid
0.3: bullshit coon coons darkie darkies fuck fucked fucken fucker fuckers fuckin fucking fucks goddamned gtfo
0.3: shit shits shitty stfu subhumans whore whores wtf
0.2: bastard bastards chink chinks crap goddamn jackass prick retarded subhuman
0.1: pricks
""")
)
"""Weight of a term for the toxicity screen: 1 for slurs, .5 for insults that name no group, less for swearing, which
is rude rather than hostile, and for words that old or rural prose has as often as abuse does."""

SEXUAL = dict(
    _weights("""
0.5: blowjob blowjobs boobs bukkake buttplug camgirl camgirls camwhore clit creampie cumming cums cumshot
0.5: cumshots deepthroat deepthroating dildo dildos fisting fleshlight gangbang gangbangs gloryhole handjob
0.5: handjobs hentai horny jizz milf milfs nympho orgasmic porno pornos rimjob sexting slutty threesome
0.5: threesomes titties upskirt
0.3: dicks masturbating porn pussies pussy
0.2: anal bdsm cum cunnilingus fellatio masturbate masturbated masturbates nsfw orgasm orgasms tits
0.1: aroused cock cocks erection naked nipple nipples nude nudes penis thrusting vagina vaginal xxx
0.05: dick
""")
)
"""Weight of a term for the sexual-content screen. Words that medicine and farming also use weigh little."""

TOXIC_PATTERNS: dict[str, tuple[float, str, str]] = {
    "threat": (
        2.0,
        r"\b(?:i|we)(?:'m| am|'re| are|'ll| will| want to| wanna| swear i'll)? ?(?:gonna |going to |will |"
        r"coming to |here to )?(?:kill|murder|rape|strangle|stab|shoot|slaughter|behead|hang) (?:you|"
        r"u|him|her|them|y'?all|ya|your (?:family|kids|children|mother|wife|husband|whole family))\b",
        "kill murder rape strangle stab shoot slaughter behead hang",
    ),
    "threat of harm": (
        1.5,
        r"\b(?:i|we)(?:'ll| will|'m gonna|'m going to| am going to|'re going to| are going to) (?:hurt you|"
        r"break your (?:legs|neck|face|arms|jaw)|slit your throat|cut your throat|burn your house|beat the (?:hell|"
        r"shit|crap) out of you|put a bullet in (?:you|your)|find (?:out )?where you live|make you (?:suffer|"
        r"bleed|pay with your life|beg))",
        "hurt break slit cut burn beat bullet live suffer bleed beg pay",
    ),
    "told to die": (
        2.0,
        r"\b(?:go )?(?:kill (?:yo)?ur ?self|kill yourselves|hang yourself|drink bleach|slit your wrists|"
        r"jump off a (?:bridge|cliff|roof)|(?:go|please|just|hope you) (?:and )?die\b(?! (?:down|out|"
        r"of old))|drop dead)",
        "kill hang bleach slit jump die dead",
    ),
    "better dead": (
        1.5,
        r"\b(?:you|they|all \w+|those \w+|these \w+|people like (?:you|that|them))(?: people| \w+)? (?:should(?: all|"
        r" just)?|deserves? to|ought to|must|need to)(?: all)? (?:be (?:die|dead|killed|shot|hanged|hung|"
        r"gassed|exterminated|slaughtered|murdered|executed|lynched|burned|burnt|raped|beaten)|die|be put down|"
        r"hang|burn in hell|rot in hell)\b",
        "die dead killed shot hanged hung gassed exterminated slaughtered murdered executed lynched "
        "burned burnt raped beaten down hang hell",
    ),
    "less than human": (
        1.5,
        r"\b(?:all|you|those|these|you're all|such) (?:\w+ ){0,3}(?:are|is|'re)(?: all| just| nothing but|"
        r" no better than)* (?:vermin|subhumans?|parasites?|cockroach(?:es)?|rats|scum|filth|trash|garbage|"
        r"animals|savages|a disease|a cancer|a plague|worthless|disgusting|inferior)\b(?! (?:bins?|cans?|"
        r"collect|bags?|control|welfare))",
        "vermin subhuman subhumans parasite parasites cockroach cockroaches rats scum filth trash "
        "garbage animals savages disease cancer plague worthless disgusting inferior",
    ),
    "hatred of people": (
        1.0,
        r"\bi (?:really |fucking |just |so )?(?:hate|despise|loathe|detest) (?:you\b(?! for being right)"
        r"|people like (?:you|that|them)|(?:all|those|these|every) (?:\w+ )?(?:people|men|women|immigrants|"
        r"foreigners|of them|of you)\b|your kind)",
        "hate despise loathe detest",
    ),
    "sent away": (
        1.0,
        r"\bgo back (?:to|where) (?:your (?:own )?country|where you (?:came|come) from|you (?:came|come)"
        r" from)|\bnobody (?:wants|likes|loves) you\b|\bthe world (?:would be|is) better (?:off )?without (?:you|"
        r"them)\b|\byour kind (?:is|are|isn't|aren't|does not|doesn't)\b",
        "back nobody without kind",
    ),
    "insult": (
        0.7,
        r"\b(?:you(?:'re| are|r)?|u r?|shut (?:the \w+ )?up,? you|what an?) (?:an? |such an? |all |nothing but |"
        r"just |a complete |a total |so )*(?:(?:fucking|stupid|ugly|dumb|pathetic|worthless|disgusting|"
        r"lazy|filthy|dirty|little) )*(?:idiot|idiots|moron|morons|imbecile|loser|losers|pathetic|worthless|"
        r"disgusting|stupid|piece of (?:shit|trash|garbage)|scum|pig|pigs|trash|garbage|creep|freak|freaks|"
        r"waste of (?:space|air|oxygen))\b",
        "idiot idiots moron morons imbecile loser losers pathetic worthless disgusting stupid piece "
        "scum pig pigs trash garbage creep freak freaks waste",
    ),
    "masked swearing": (
        0.3,
        r"\b(?:f[*@#-]{1,3}c?k|sh[*@#]{1,2}t|s[*@#]{2}t|b[*@#]tch|c[*@#]nt|c[*@#]cks|a[*@#]{2}hole|motherf[*@#]{1,3}c?k)",
        "f k ck t tch nt cks hole sh motherf cker cking ckers ckin ks",
    ),
}
"""Name -> weight, regular expression over lower-case text, and the words without which it cannot match."""

SEXUAL_PATTERNS: dict[str, tuple[float, str, str]] = {
    "explicit act": (
        1.0,
        r"\b(?:suck(?:s|ed|ing)?|lick(?:s|ed|ing)?|rid(?:e|es|ing)|rub(?:s|bed|bing)?|strok(?:e|es|ed|"
        r"ing)) (?:an?|my|his|her|your|their|on my|on his|on her) (?:hard |wet |big |throbbing |huge )*(?:cock|"
        r"dick|pussy|clit|tits|boobs|nipples|balls|penis)\b",
        "cock dick pussy clit tits boobs nipples balls penis",
    ),
    "explicit body": (
        0.7,
        r"\b(?:hard|wet|throbbing|erect|tight|dripping|huge|big|long|naked) (?:cock|dick|pussy|penis|tits|cunt|"
        r"body against)\b|\b(?:fuck|fucks|fucked|fucking) (?:me|her|him) (?:hard|harder|deep|deeper|in the|"
        r"from behind|doggy)\b",
        "cock dick pussy penis tits cunt against fuck fucks fucked fucking",
    ),
    "advertisement": (
        0.7,
        r"\b(?:hot|nude|naked|horny|sexy) (?:\w+ )?(?:girls?|babes?|milfs?|singles?|teens?|chicks?|moms?|"
        r"wom[ae]n|cams?) (?:in your area|near you|waiting|live|online|want|videos?|pics|for (?:free|"
        r"sex))|\b(?:free|live|watch|hd|hot) (?:\w+ )?(?:porn|sex (?:cams?|videos?|chat|tapes?)|xxx|nudes?)"
        r"\b|\bsex (?:cams?|chat|dolls?|videos?|toys?)\b|\badult (?:dating|cams?|videos?|chat)\b",
        "hot nude naked horny sexy porn sex xxx nudes adult",
    ),
}

_GROUPS = """
woman women man men girl girls boy boys lady ladies gentleman gentlemen female females male males feminine
masculine transgender trans transsexual transgendered transfeminine transmasculine cis cisgender nonbinary enby
genderqueer genderfluid agender bigender intersex androgynous gay gays lesbian lesbians queer queers homosexual
homosexuals homosexuality bisexual bisexuals bi pansexual asexual asexuals aromantic heterosexual heterosexuals
hetero straight lgbt lgbtq lgbtqia lgbtqi polyamorous feminist feminists femme butch tomboy effeminate mtf ftm afab
amab demisexual hermaphrodite twospirit black blacks white whites brown african africans american americans asian
asians european europeans arab arabs arabic latino latinos latina latinas latinx latine hispanic hispanics chicano
chicana mexican mexicans chinese japanese korean koreans indian indians pakistani pakistanis vietnamese filipino
filipinos filipina thai indonesian malaysian iranian iranians iraqi iraqis afghan afghans syrian syrians turkish
turk turks kurd kurds kurdish palestinian palestinians israeli israelis russian russians ukrainian ukrainians
polish pole poles german germans french italian italians spanish spaniard portuguese greek greeks english irish
scottish welsh british dutch swedish norwegian danish finnish romanian romanians bulgarian hungarian serb serbs
serbian croatian albanian albanians bosnian nigerian nigerians kenyan somali somalis ethiopian egyptian moroccan
algerian cuban cubans dominican haitian haitians jamaican puerto rican salvadoran guatemalan colombian venezuelan
venezuelans brazilian brazilians argentinian peruvian canadian australian indigenous aboriginal native natives
inuit maori hawaiian roma romani gypsy gypsies sinti caucasian caucasians oriental desi semitic slavic immigrant
immigrants migrant migrants refugee refugees foreigner foreigners alien aliens undocumented bipoc poc aapi negro
negroes colored coloured mixed biracial christian christians catholic catholics protestant protestants evangelical
evangelicals orthodox mormon mormons methodist lutheran baptist jewish jew jews judaism zionist zionists hasidic
ashkenazi sephardic muslim muslims moslem moslems islam islamic sunni shia shiite sufi hindu hindus buddhist
buddhists sikh sikhs jain jains taoist atheist atheists agnostic pagan pagans wiccan rastafarian amish quaker bahai
druze zoroastrian scientologist religious secular disabled disability disabilities handicapped deaf blind mute
autistic autism paralyzed paralysed paraplegic quadriplegic wheelchair dyslexic diabetic epileptic bipolar
schizophrenic depressed neurodivergent neurotypical neurodiverse crippled amputee dwarf fat obese overweight thin
skinny short tall bald blonde ginger redhead young younger old older elderly senior seniors teenager teenagers
teenage teen teens adolescent geriatric middleaged millennial millennials boomer boomers homeless poor rich wealthy
unemployed veteran veterans orphan pregnant single married divorced widow widowed liberal liberals conservative
conservatives democrat democrats republican republicans socialist socialists communist communists libertarian
anarchist nationalist leftist leftists rightwing leftwing
"""

IDENTITIES: tuple[str, ...] = tuple(_GROUPS.split())
"""Names of groups. A classifier trained with `ignore_identities` does not see them (nor do the patterns name any)."""
