"""Bytes per token by kind of text."""

from afm_mlx.text.samples import SAMPLES, Density, densities


def test_density_counts_bytes_and_tokens(tokenizer):
    found = densities(tokenizer, {"digits": "1234", "rocket": "\U0001f680\n"})
    assert found == {"digits": Density(bytes=4, tokens=4), "rocket": Density(bytes=5, tokens=5)}
    assert found["digits"].bytes_per_token == 1.0


def test_text_like_the_training_text_is_densest(tokenizer):
    found = {name: one.bytes_per_token for name, one in densities(tokenizer).items()}
    assert list(found) == list(SAMPLES)
    assert min(found["English"], found["Python"]) > 1.5 > found["Chinese"]
