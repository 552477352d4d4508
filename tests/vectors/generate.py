"""Writes the test vectors: python -m tests.vectors.generate. The same bytes each time: keys, nonces and times are fixed."""

from tests.vectors import exchanges, messages, proofs
from tests.vectors.parts import HERE


def files() -> dict[str, str]:
    """The text of each file by its name."""
    return {
        "requests.json": messages.requests(),
        "responses.json": messages.responses(),
        "errors.json": messages.errors(),
        "malformed.json": messages.malformed(),
        "exchanges.json": exchanges.exchanges(),
        "streams.json": exchanges.streams(),
        "samples.json": exchanges.samples(),
        "timestamps.json": exchanges.timestamps(),
        "signatures.json": proofs.signatures(),
        "chains.json": proofs.chains(),
    }


if __name__ == "__main__":
    for name, text in files().items():
        (HERE / name).write_text(text)
