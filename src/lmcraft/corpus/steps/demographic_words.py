"""The words that step `demographics` counts: by language and group of people. Lists of our own.

A line names a group and its words, and goes on where the next is indented. `a_b` is two words one after the other; `*`
stands for each word of the line `*`, words for people, which count for themselves as well. Case does not
count, accents do. Left out: names of professions, and masculine plurals that also stand for mixed groups (hijos).
"""

from __future__ import annotations

LISTS = {
    "en": """\
*: people person man men woman women boy boys girl girls child children lady ladies gentleman gentlemen citizen
  citizens worker workers family families community communities population populations americans
gender/female: she her hers herself woman women girl girls lady ladies female females mother mothers mum mom
  grandmother grandmothers daughter daughters granddaughter sister sisters wife wives widow widows aunt aunts niece
  nieces bride girlfriend queen queens princess princesses empress duchess nun nuns mrs ms miss madam housewife
  housewives feminine saleswoman businesswoman chairwoman congresswoman spokeswoman policewoman
gender/male: he him his himself man men boy boys gentleman gentlemen male males father fathers dad grandfather
  grandfathers son sons grandson brother brothers husband husbands widower widowers uncle uncles nephew nephews
  bridegroom boyfriend king kings prince princes emperor duke monk monks mr sir masculine salesman businessman
  chairman congressman spokesman policeman
gender/trans or nonbinary: transgender transsexual nonbinary genderqueer intersex non_binary
religion/christian: christian christians christianity catholic catholics catholicism protestant protestants
  orthodoxy baptist baptists methodist methodists lutheran lutherans anglican anglicans evangelical evangelicals
  mormon mormons
religion/muslim: muslim muslims islam islamic sunni shia shiite sufi moslem moslems
religion/jewish: jew jews jewish judaism hasidic rabbi rabbis
religion/hindu: hindu hindus hinduism brahmin brahmins
religion/buddhist: buddhist buddhists buddhism
religion/sikh: sikh sikhs sikhism
religion/none: atheist atheists atheism agnostic agnostics agnosticism
origin/african: african africans nigerian nigerians kenyan kenyans ethiopian ethiopians somali somalis ghanaian
  ghanaians congolese senegalese ugandan ugandans zimbabwean sudanese tanzanian
origin/east asian: chinese japanese korean koreans taiwanese mongolian mongolians tibetan tibetans asian asians
  vietnamese thai filipino filipinos filipina indonesian indonesians malaysian malaysians burmese cambodian
  cambodians
origin/south asian: indian indians pakistani pakistanis bangladeshi bangladeshis bengali bengalis punjabi tamil
  tamils nepali nepalese sri_lankan sri_lankans
origin/middle eastern: arab arabs arabic iranian iranians persian persians iraqi iraqis syrian syrians lebanese
  turkish turks kurdish kurds israeli israelis palestinian palestinians saudi saudis egyptian egyptians afghan
  afghans moroccan moroccans algerian algerians
origin/european: european europeans english british briton britons scottish welsh irish french german germans
  italian italians spanish spaniard spaniards portuguese dutch belgian belgians swiss austrian austrians greek
  greeks swedish swedes norwegian norwegians danish danes finnish finns russian russians ukrainian ukrainians czech
  czechs hungarian hungarians romanian romanians bulgarian bulgarians serbian serbs croatian croats roma gypsy
  gypsies polish_*
origin/latin american: mexican mexicans brazilian brazilians argentine argentines argentinian colombian colombians
  peruvian peruvians chilean chileans cuban cubans venezuelan venezuelans hispanic hispanics latino latinos latina
  latinas puerto_rican puerto_ricans latin_american latin_americans
origin/north american: american americans canadian canadians
origin/oceanian: australian australians maori maoris aboriginal aboriginals samoan samoans
origin/indigenous: indigenous inuit navajo cherokee sioux apache native_american native_americans first_nations
origin/black: black_* coloured_* negro_* african_american african_americans afro_american negro negroes
origin/white: white_* caucasian_* caucasians
age/young: child children kid kids teenager teenagers teen teens adolescent adolescents youth youths youngster
  youngsters toddler toddlers infant infants young_* younger_*
age/old: elderly pensioner pensioners retiree retirees octogenarian centenarian senior_citizen senior_citizens old_*
  older_* aged_*
disability/mentioned: disabled disability disabilities wheelchair paralysed paralyzed paraplegic quadriplegic
  autistic autism dyslexic dyslexia schizophrenic schizophrenia bipolar epileptic epilepsy blind_* deaf_* mute_*
  lame_* crippled_* down_syndrome cerebral_palsy hearing_impaired visually_impaired mentally_ill
orientation/lesbian, gay, bisexual: gay gays lesbian lesbians homosexual homosexuals homosexuality bisexual
  bisexuals queer lgbt lgbtq same_sex
orientation/heterosexual: heterosexual heterosexuals heterosexuality straight_*
""",
    "fr": """\
*: personne personnes gens homme hommes femme femmes enfant enfants garçon garçons fille filles famille familles
  communauté communautés population populations
gender/female: femme femmes fille filles fillette fillettes mère mères maman soeur sœur soeurs sœurs épouse épouses
  veuve veuves tante tantes nièce nièces cousine cousines reine reines princesse princesses impératrice duchesse
  madame mesdames mademoiselle mme mlle dame dames féminin féminine féminines féminins
gender/male: homme hommes garçon garçons père pères papa frère frères mari maris époux veuf oncle oncles neveu
  neveux cousin cousins roi rois prince princes empereur duc monsieur messieurs fils masculin masculine masculins
  masculines
gender/trans or nonbinary: transgenre transgenres transsexuel transsexuelle non_binaire
religion/christian: chrétien chrétiens chrétienne chrétiennes christianisme catholique catholiques catholicisme
  protestant protestants protestante protestantisme évangélique évangéliques anglican anglicans luthérien luthériens
religion/muslim: musulman musulmans musulmane musulmanes islam islamique islamiques sunnite chiite
religion/jewish: juif juifs juive juives judaïsme rabbin rabbins
religion/hindu: hindou hindous hindoue hindouisme
religion/buddhist: bouddhiste bouddhistes bouddhisme
religion/sikh: sikh sikhs sikhisme
religion/none: athée athées athéisme agnostique agnostiques
origin/african: africain africains africaine africaines nigérian nigérians sénégalais sénégalaise malien maliens
  ivoirien ivoiriens camerounais congolais éthiopien éthiopiens
origin/east asian: chinois chinoise chinoises japonais japonaise japonaises coréen coréens coréenne asiatique
  asiatiques vietnamien vietnamiens vietnamienne thaïlandais philippin philippins indonésien tibétain tibétains
origin/south asian: indien indiens indienne indiennes pakistanais bangladais tamoul tamouls népalais
origin/middle eastern: arabe arabes iranien iraniens iranienne persan irakien irakiens syrien syriens syrienne
  libanais libanaise turc turcs turque turques kurde kurdes israélien israéliens palestinien palestiniens égyptien
  égyptiens marocain marocains algérien algériens tunisien tunisiens maghrébin maghrébins
origin/european: européen européens européenne européennes français française françaises anglais anglaise anglaises
  britannique britanniques écossais irlandais irlandaise allemand allemands allemande allemandes italien italiens
  italienne italiennes espagnol espagnols espagnole espagnoles portugais portugaise néerlandais belge belges suisse
  suisses autrichien autrichiens grec grecs grecque suédois norvégien danois russe russes polonais polonaise
  ukrainien ukrainiens hongrois roumain roumains bulgare serbe serbes rom roms
origin/latin american: mexicain mexicains mexicaine brésilien brésiliens brésilienne argentin argentins argentine
  colombien colombiens péruvien chilien cubain cubains vénézuélien hispanique hispaniques
origin/north american: américain américains américaine américaines canadien canadiens canadienne québécois
  québécoise
origin/oceanian: australien australiens australienne maori maoris aborigène aborigènes
origin/indigenous: autochtone autochtones amérindien amérindiens amérindienne inuit
origin/black: *_noir *_noire *_noirs *_noires
origin/white: *_blanc *_blanche *_blancs *_blanches
age/young: enfant enfants adolescent adolescents adolescente adolescentes bébé bébés nourrisson jeune_* jeunes_*
age/old: vieillard vieillards retraité retraités vieil_* vieux_* vieille_* vieilles_* personne_âgée personnes_âgées
disability/mentioned: handicapé handicapés handicapée handicap handicaps paralysé paralysée aveugle aveugles sourd
  sourds sourde autiste autistes autisme trisomique schizophrène épileptique malvoyant malvoyants malentendant
  malentendants
orientation/lesbian, gay, bisexual: homosexuel homosexuels homosexuelle homosexuelles homosexualité lesbienne
  lesbiennes bisexuel bisexuelle gay gays lgbt
orientation/heterosexual: hétérosexuel hétérosexuels hétérosexuelle hétérosexualité
""",
    "es": """\
*: persona personas gente hombre hombres mujer mujeres niño niños niña niñas chico chicos chica chicas familia
  familias comunidad comunidades población poblaciones
gender/female: mujer mujeres niña niñas chica chicas madre madres mamá hermana hermanas hija hijas esposa esposas
  viuda viudas tía tías sobrina abuela abuelas reina reinas princesa princesas emperatriz duquesa señora señoras
  señorita dama damas femenino femenina femeninos femeninas
gender/male: hombre hombres niño chico padre papá hermano hijo esposo marido maridos viudo tío sobrino abuelo rey
  príncipe príncipes emperador duque señor caballero caballeros masculino masculina
gender/trans or nonbinary: transgénero transexual transexuales no_binario no_binaria
religion/christian: cristiano cristianos cristiana cristianas cristianismo católico católicos católica católicas
  catolicismo protestante protestantes protestantismo evangélico evangélicos anglicano luterano
religion/muslim: musulmán musulmanes musulmana musulmanas islam islámico islámica suní chií
religion/jewish: judío judíos judía judías judaísmo rabino rabinos
religion/hindu: hindú hindúes hinduismo
religion/buddhist: budista budistas budismo
religion/sikh: sij sijs sijismo
religion/none: ateo ateos atea ateísmo agnóstico agnósticos
origin/african: africano africanos africana africanas nigeriano nigerianos keniano etíope etíopes senegalés
  congoleño
origin/east asian: chino chinos japonés japoneses japonesa coreano coreanos coreana asiático asiáticos asiática
  vietnamita vietnamitas tailandés filipino filipinos indonesio tibetano tibetanos
origin/south asian: indio indios pakistaní pakistaníes bangladesí tamil nepalí
origin/middle eastern: árabe árabes iraní iraníes persa persas iraquí sirio sirios libanés turco turcos turca kurdo
  kurdos israelí israelíes palestino palestinos egipcio egipcios egipcia marroquí marroquíes argelino
origin/european: europeo europeos europea europeas español españoles española españolas inglés ingleses inglesa
  británico británicos británica escocés irlandés francés franceses francesa alemán alemanes alemana italiano
  italianos italiana portugués portugueses portuguesa neerlandés holandés belga belgas suizo suizos austriaco griego
  griegos griega sueco noruego danés ruso rusos rusa polaco polacos ucraniano húngaro rumano búlgaro serbio gitano
  gitanos
origin/latin american: mexicano mexicanos mexicana brasileño brasileños brasileña argentino argentinos colombiano
  colombianos colombiana peruano peruanos peruana chileno chilenos chilena cubano cubanos cubana venezolano
  venezolanos latinoamericano latinoamericanos hispano hispanos latino latinos
origin/north american: estadounidense estadounidenses norteamericano norteamericanos canadiense canadienses
origin/oceanian: australiano australianos australiana maorí maoríes aborigen aborígenes
origin/indigenous: indígena indígenas amerindio amerindios inuit mapuche quechua aimara
origin/black: *_negro *_negra *_negros *_negras
origin/white: *_blanco *_blanca *_blancos *_blancas
age/young: niños adolescente adolescentes joven jóvenes bebé bebés
age/old: anciano ancianos anciana ancianas jubilado jubilados
disability/mentioned: discapacitado discapacitados discapacitada discapacidad discapacidades ciego ciegos ciega
  sordo sordos sorda autista autistas autismo minusválido paralítico esquizofrénico epiléptico
orientation/lesbian, gay, bisexual: homosexual homosexuales homosexualidad lesbiana lesbianas bisexual bisexuales
  gay gays lgbt
orientation/heterosexual: heterosexual heterosexuales heterosexualidad
""",
    "de": """\
*: Mensch Menschen Person Personen Mann Männer Frau Frauen Kind Kinder Junge Jungen Mädchen Familie Familien
  Bevölkerung Leute
gender/female: Frau Frauen Mädchen Mutter Mütter Mama Großmutter Tochter Töchter Schwester Schwestern Ehefrau Gattin
  Witwe Tante Nichte Braut Königin Königinnen Prinzessin Kaiserin Herzogin Dame Damen Fräulein weiblich weibliche
  weiblichen
gender/male: Mann Männer Männern Junge Jungen Knabe Knaben Vater Väter Papa Großvater Sohn Söhne Bruder Brüder
  Ehemann Gatte Witwer Onkel Neffe Bräutigam König Könige Prinz Kaiser Herzog Herr Herren männlich männliche
  männlichen
gender/trans or nonbinary: transgender transsexuell nichtbinär
religion/christian: Christ Christen Christentum christlich christliche christlichen Katholik Katholiken katholisch
  katholische katholischen Protestant Protestanten evangelisch evangelische evangelischen lutherisch
religion/muslim: Muslim Muslime Muslimin Moslem Moslems muslimisch Islam islamisch islamische islamischen
religion/jewish: Jude Juden Jüdin jüdisch jüdische jüdischen Judentum Rabbiner
religion/hindu: Hindu Hindus Hinduismus
religion/buddhist: Buddhist Buddhisten Buddhismus buddhistisch
religion/sikh: Sikh Sikhs
religion/none: Atheist Atheisten Atheismus Agnostiker
origin/african: Afrikaner Afrikanerin afrikanisch afrikanische afrikanischen Nigerianer Kenianer Äthiopier
origin/east asian: Chinese Chinesen chinesisch chinesische chinesischen Japaner japanisch japanische japanischen
  Koreaner koreanisch koreanische Asiaten asiatisch asiatische Vietnamesen Filipinos
origin/south asian: Inder Inderin indisch indische indischen Pakistaner Bangladescher Tamilen
origin/middle eastern: Araber arabisch arabische arabischen Iraner iranisch Perser Iraker Syrer Libanesen Türke
  Türken türkisch türkische türkischen Kurden Israeli Israelis Palästinenser Ägypter Marokkaner Algerier
origin/european: Europäer europäisch europäische europäischen Deutscher Deutsche Deutschen Engländer Engländerin
  englisch englische englischen Brite Briten Schotten Iren Franzose Franzosen französisch französische französischen
  Italiener italienisch italienische Spanier spanisch spanische Portugiesen Niederländer Belgier Schweizer
  Österreicher Griechen Schweden Norweger Dänen Russe Russen russisch russische Polen polnisch Ukrainer Ungarn
  Rumänen Serben Roma Sinti
origin/latin american: Mexikaner Brasilianer Argentinier Kolumbianer Peruaner Chilenen Kubaner Latinos
origin/north american: Amerikaner Amerikanerin amerikanisch amerikanische amerikanischen Kanadier
origin/oceanian: Australier Maori Aborigines
origin/indigenous: Indianer indigen indigene indigenen Inuit
origin/black: schwarzer_* schwarze_* schwarzen_* schwarzes_*
origin/white: weißer_* weiße_* weißen_* weißes_*
age/young: Kind Kinder Jugendliche Jugendlichen Teenager junger_* junge_* jungen_*
age/old: Greis Greise Senioren Rentner alter_* alte_* alten_*
disability/mentioned: behindert behinderte Behinderten Behinderung Blinde Blinden Gehörlose Autisten Autismus
orientation/lesbian, gay, bisexual: homosexuell homosexuelle Homosexuelle Homosexualität lesbisch lesbische Lesben
  schwul schwule Schwule bisexuell
orientation/heterosexual: heterosexuell heterosexuelle Heterosexuelle Heterosexualität
""",
}
