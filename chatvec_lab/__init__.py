"""A workbook for chat vectors: `cp + scale * (chat - base)`, analysed and evaluated."""
