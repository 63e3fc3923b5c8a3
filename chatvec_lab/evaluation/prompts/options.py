"""What a family of published models may be asked: the keys of the parameter `prompts`, and the sets that they name."""

from chatvec_lab.evaluation._frames import stored

OPTIONS: dict[str, str] = stored("prompt_sets")["options"]
NAMING: list[str] = stored("prompt_sets")["naming"]  # keys that name prompt sets
READERS: list[str] = stored("prompt_sets")["readers"]  # sets that need their own reader, by name
PUBLISHED: dict[str, tuple[str, str | None, tuple[str, ...]]] = {  # hub id or link, file in it, languages
    name: (row["source"], row.get("file"), tuple(row["languages"]))
    for name, row in stored("prompt_sets")["published"].items()
}
