"""Who said what time when: signed exchanges that are kept, and what they prove together (docs/explanation/proofs.md). Pure.

From the top, each using only what comes after it: `examination`, `order`, `records`.
"""
