"""What a family of published models may be asked: the keys of the parameter `prompts`, and the sets that they name."""

OPTIONS = {
    "language": "the code of the prompts, where the family's is another, such as zh-Hant",
    "one_turn": "a prompt set: our own by name, a published one by name or hub id, a link or a file; of several, with "
    "commas between, each language takes the first that has it",
    "two_turn": "the same, with two turns",
    "hostile": "the same, for the chat format; safety-prompts are the paper's",
    "continuations": "the same, for bare text that is continued; real-toxicity-prompts are the paper's",
    "harmless": "the same: look-alikes of hostile prompts that must be answered",
    "validation": "the set on which a scale is chosen; without it a third of one_turn is set aside for that",
    "max_tokens": "the longest reply",
    "temperature": "0 is greedy",
    "thinking": "the format of thoughts (think, harmony, ...), where it is not the one of the chat template",
    "template": "further arguments of the chat template as NAME=VALUE, such as enable_thinking=false",
}
NAMING = (
    "one_turn",
    "two_turn",
    "hostile",
    "continuations",
    "harmless",
    "validation",
)  # keys that name prompt sets
# A set that needs its own reader, by name; NAME:SOURCE takes it from a folder, file or link
READERS = ("real-toxicity-prompts", "safety-prompts", "rtp-lx", "polyglo-toxicity-prompts")
