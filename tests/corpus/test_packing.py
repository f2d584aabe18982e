import mlx.core as mx

from afm_mlx.corpus.packing import document_ids, document_mask, shift_right

EOS = 9
# The end of one document, a whole one, the start of a third.
ROWS = mx.array([[1, 2, EOS, 3, EOS, 4]])


def test_inputs_are_the_targets_one_place_later_after_an_eos():
    inputs = shift_right(ROWS, EOS)
    assert inputs.tolist() == [[EOS, 1, 2, EOS, 3, EOS]]
    assert inputs.dtype == ROWS.dtype


def test_a_document_starts_at_each_eos_of_the_inputs():
    ids = document_ids(shift_right(ROWS, EOS), EOS)
    assert ids.tolist() == [[1, 1, 1, 2, 2, 3]]
    assert ids.dtype == mx.int32


def test_mask_shows_each_token_its_own_document_up_to_itself():
    mask = document_mask(mx.array([[1, 1, 1, 2, 2, 3]]))
    picture = ["".join(".#"[seen] for seen in row) for row in mask[0, 0].tolist()]
    assert picture == [
        "#.....",
        "##....",
        "###...",
        "...#..",
        "...##.",
        ".....#",
    ]
    assert mask.dtype == mx.bool_


def test_rows_of_a_batch_have_masks_of_their_own():
    ids = document_ids(shift_right(mx.array([[1, EOS, 2], [1, 2, 3]]), EOS), EOS)
    mask = document_mask(ids)
    assert mask.shape == (2, 1, 3, 3)
    assert mask[0, 0].tolist() == [[True, False, False], [True, True, False], [False, False, True]]
    assert mask[1, 0].tolist() == [[True, False, False], [True, True, False], [True, True, True]]


def test_with_the_mask_a_document_attends_as_if_it_were_alone():
    keys = [mx.random.key(number) for number in range(3)]
    q, k, v = (mx.random.normal((1, 2, 6, 4), key=key) for key in keys)
    mask = document_mask(document_ids(shift_right(ROWS, EOS), EOS))
    packed = mx.fast.scaled_dot_product_attention(q, k, v, scale=0.5, mask=mask)
    q, k, v = (x[:, :, 3:5] for x in (q, k, v))
    alone = mx.fast.scaled_dot_product_attention(q, k, v, scale=0.5, mask="causal")
    # Float32 sums over three more terms that are zero.
    assert mx.allclose(packed[:, :, 3:5], alone, atol=1e-6)


def test_all_of_it_works_inside_a_compiled_step():
    def step(rows: mx.array) -> mx.array:
        return document_mask(document_ids(shift_right(rows, EOS), EOS))

    assert mx.array_equal(mx.compile(step)(ROWS), step(ROWS))
