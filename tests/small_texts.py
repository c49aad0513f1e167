"""Texts of an invented encyclopaedia in three languages, made by rule, with the faults that real text has."""

from __future__ import annotations

import json
import random
from pathlib import Path

SYLLABLES = "bel cor dan fel gar hol kim lor mar nes or pel ran sol tur vi"
TOPICS = {
    "en": ("Rivers", "Painters", "Machines", "Plants"),
    "fr": ("Rivières", "Peintres", "Machines", "Plantes"),
    "es": ("Ríos", "Pintores", "Máquinas", "Plantas"),
}
# What a document of a topic is: the words for it in each language.
KINDS = {
    "en": ("river", "painter", "machine", "plant"),
    "fr": ("rivière", "peintre", "machine", "plante"),
    "es": ("río", "pintor", "máquina", "planta"),
}
SENTENCES = {
    "en": (
        "It is known in the whole {adjective} country for its {thing} and for the {adjective2} {thing2} near {place}.",
        "In the year {year} the people of {place} wrote of it with {adjective} words and some {adjective2} {thing}s.",
        "Many {adjective} books say that the {thing} was found by travellers who came from {place} in {year}.",
        "Those who see it today think of the {adjective} {thing} and the {thing2} that their parents had known.",
        "Between {place} and the {adjective} sea there is a {thing2} which was built with the help of {other}.",
        "The {adjective2} {thing} of {place} has been described more than {number} times since {year}.",
        "Its name comes from an old word for {thing2}, and {other} used the same word for a {adjective} {thing}.",
    ),
    "fr": (
        "On connaît dans tout le pays {adjective} son {thing} et le {thing2} {adjective2} qui est près de {place}.",
        "En {year}, les habitants de {place} en ont parlé avec des mots qui rappellent un {thing} {adjective}.",
        "Beaucoup de livres disent que le {thing} fut trouvé par des voyageurs venus de {place} en {year}.",
        "Ceux qui le voient aujourd'hui pensent au {thing} {adjective} et au {thing2} que leurs parents ont connus.",
        "Entre {place} et la mer, il y a un {thing2} {adjective2} construit avec l'aide de {other} en {year}.",
        "Le {thing} {adjective} de {place} a été décrit plus de {number} fois depuis l'année {year}.",
        "Son nom vient d'un ancien mot pour le {thing2}, et {other} l'a donné aussi à un {thing} {adjective2}.",
    ),
    "es": (
        "Se conoce en todo el país {adjective} por su {thing} y por el {thing2} {adjective2} cerca de {place}.",
        "En el año {year} la gente de {place} escribió sobre ello con palabras que recuerdan un {thing} {adjective}.",
        "Muchos libros dicen que el {thing} fue hallado por viajeros que llegaron desde {place} en {year}.",
        "Quienes lo ven hoy piensan en el {thing} {adjective} y en el {thing2} que sus padres habían conocido.",
        "Entre {place} y el mar hay un {thing2} {adjective2} que fue construido con la ayuda de {other} en {year}.",
        "El {thing} {adjective} de {place} ha sido descrito más de {number} veces desde el año {year}.",
        "Su nombre viene de una palabra antigua para el {thing2}, y {other} lo dio también a un {thing} {adjective2}.",
    ),
}
FIRST = {
    "en": "{title} is a {adjective} {kind} in the north of {place}.",
    "fr": "{title} est une {kind} {adjective} dans le nord de {place}.",
    "es": "{title} es un {kind} {adjective} en el norte de {place}.",
}
DESCRIPTION = {
    "en": "{adjective} {kind} of {place}",
    "fr": "{kind} {adjective} de {place}",
    "es": "{kind} {adjective} de {place}",
}
ADJECTIVES = {
    "en": "green quiet narrow famous early heavy silver distant broken gentle northern common bright wooden",
    "fr": "vert calme étroit célèbre ancien lourd brillant lointain fragile tranquille rouge large utile",
    "es": "verde tranquilo estrecho famoso antiguo pesado brillante lejano frágil ancho rojo útil blanco",
}
THINGS = {
    "en": "bridge garden letter window engine tower market island forest lantern mirror harbour castle basket",
    "fr": "pont jardin livre moteur marché château miroir port panier moulin chemin tableau bateau village",
    "es": "puente jardín libro motor mercado castillo espejo puerto cesto molino camino cuadro barco pueblo",
}


def write_texts(folder: Path, documents: int = 450) -> None:
    """`articles.jsonl`, `stories.jsonl`, two Markdown and two text files: about 200 kB, among them a malformed line, a
    repeated and a nearly repeated article, an e-mail address, broken encoding, a text in another language than it says,
    one too short, and a picture that is no text."""
    rng = random.Random(2)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [_article(rng, number) for number in range(documents)]
    # The same text twice, once with other capitals, and once but for a few words at its end.
    rows.append({**rows[0], "text": rows[0]["text"].upper()})
    rows.append({**rows[3], "text": rows[3]["text"] + " So it is told."})
    rows[6]["text"] += " Write to the keeper at keeper@example.org for more."
    rows[9]["text"] += " It costs 5 â‚¬ and is â€œfreeâ€\u009d for children."
    rows.append({**_article(rng, 1), "language": "en"})  # says English, is French
    rows.append({"title": "Short", "text": "Too short.", "language": "en"})
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    lines.insert(17, '{"title": "Broken", "text": "this line ends too ear')
    (folder / "articles.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for number, language in enumerate(("en", "fr")):
        article = _article(rng, number)
        text = f"# {article['title']}\n\n{article['text']}\n"
        (folder / f"notes-{language}.md").write_text(text, encoding="utf-8")
        (folder / f"story-{language}.txt").write_text(_article(rng, number)["text"] + "\n", encoding="utf-8")
    (folder / "latin1.txt").write_bytes("Une phrase française écrite en latin-1, sans préfixe.\n".encode("latin-1"))
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00")


def _article(rng: random.Random, number: int) -> dict[str, str]:
    language = ("en", "fr", "es")[number % 3]
    topic = rng.randrange(4)

    def name() -> str:
        return "".join(rng.choices(SYLLABLES.split(), k=rng.randint(2, 3))).capitalize()

    def words() -> dict[str, str]:
        adjective, adjective2 = rng.sample(ADJECTIVES[language].split(), 2)
        thing, thing2 = rng.sample(THINGS[language].split(), 2)
        return {
            "adjective": adjective,
            "adjective2": adjective2,
            "thing": thing,
            "thing2": thing2,
            "place": name(),
            "other": name(),
            "year": str(rng.randint(1200, 1999)),
            "number": str(rng.randint(12, 400)),
        }

    title, known = f"{name()} {name()}", {"kind": KINDS[language][topic], **words()}
    sentences = [FIRST[language].format(title=title, **known)]
    sentences += [form.format(**words()) for form in rng.sample(SENTENCES[language], rng.randint(2, 5))]
    return {
        "title": title,
        "text": " ".join(sentences),
        "description": DESCRIPTION[language].format(**known),
        "topic": TOPICS[language][topic],
        "language": language,
        "licence": "CC0-1.0",
    }
