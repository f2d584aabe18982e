from afm_mlx.export.prompts import TEXTS, prompts
from afm_mlx.text.tokenizer import Tokenizer


def test_there_are_eight_and_the_same_each_time(tokenizer_folder):
    found = prompts(tokenizer_folder, chats=True)
    assert len(found) == 8
    assert found == prompts(tokenizer_folder, chats=True)
    assert [one.name for one in found] == list(TEXTS)


def test_they_differ_in_length_from_a_few_tokens_to_hundreds(tokenizer_folder):
    lengths = [len(one.ids) for one in prompts(tokenizer_folder, chats=False)]
    assert min(lengths) < 8
    assert max(lengths) > 512


def test_a_chat_model_gets_its_template_and_another_plain_text(tokenizer_folder):
    tokenizer = Tokenizer.open(tokenizer_folder)
    chat, plain = (prompts(tokenizer_folder, chats=chats)[0] for chats in (True, False))
    text = TEXTS["question"]
    assert tokenizer.decode(chat.ids) == f"</s><turn:user>{text}<turn:end><turn:assistant>"
    assert tokenizer.decode(plain.ids) == f"</s>{text}"
