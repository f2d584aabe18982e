import json

import pytest

from afm_mlx.inference.prompts import chats_with


@pytest.fixture
def folder(tmp_path):
    """Makes a folder with a chat template, and with facts where a stage is named."""

    def make(stage=None):
        (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
        if stage is not None:
            (tmp_path / "config.json").write_text(json.dumps({"afm": {"stage": stage}}))
        return tmp_path

    return make


@pytest.mark.parametrize("stage", [None, "sft"])
def test_what_has_a_template_and_is_no_base_chats(folder, stage):
    assert chats_with(folder(stage), adapter_chats=False)


def test_a_base_model_chats_only_with_an_adapter_that_does(folder):
    assert chats_with(folder("core"), adapter_chats=True)
    assert not chats_with(folder("core"), adapter_chats=False)


def test_without_a_template_nothing_chats(tmp_path):
    assert not chats_with(tmp_path, adapter_chats=True)
