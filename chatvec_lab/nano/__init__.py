"""The nano family: a tiny model family trained on a synthetic world, embedded in the workbook."""
