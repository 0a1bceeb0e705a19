"""Cross-attentions of a Whisper under a schedule: a column a frame, as those who read times from them expect."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import prunesearch as ps
from tests.support.small_models import build, inputs_of

DROPS = ps.Schedule([ps.Stage(0, 0.7, "value_norm", "drop"), ps.Stage(1, 0.3, "value_norm", "drop")])
MERGES = ps.Schedule([ps.Stage(0, 0.6, "value_norm", "fuse"), ps.Stage(1, 0.3, "value_norm", "bipartite")])


def owners_by_hand(source: Tensor) -> list[int]:
    """For every frame of `[n_left, n_start]`: the token that holds most of it, or that of the nearest frame held."""
    holders = [int(column.argmax()) if float(column.max()) > 0 else None for column in source.T]
    held = [i for i, holder in enumerate(holders) if holder is not None]
    return [holders[min(held, key=lambda i: (abs(i - frame), i))] for frame in range(len(holders))]


@pytest.mark.parametrize("schedule", [DROPS, MERGES])
@pytest.mark.parametrize("beams", [1, 3])
def test_a_frame_has_its_share_of_what_its_owner_is_given(schedule: ps.Schedule, beams: int) -> None:
    model, inputs = build("whisper", attention="eager"), inputs_of("whisper", (14, 14))
    sounds, words = inputs["input_features"], inputs["decoder_input_ids"].repeat_interleave(beams, 0)
    seen: list[Tensor] = []
    module = model.model.decoder.layers[0].encoder_attn
    hook = module.register_forward_hook(lambda _, __, output: seen.append(output[1]))
    with torch.no_grad(), ps.apply_(model, schedule, trace=True) as handle:
        states = model.model.encoder(sounds).last_hidden_state.repeat_interleave(beams, 0)
        found = model(encoder_outputs=(states,), decoder_input_ids=words, output_attentions=True).cross_attentions
        assert handle.trace is not None
        assert handle.trace.source is not None
        source = handle.trace.source
    hook.remove()
    assert found[0].shape[-1] == 14
    for row in range(2 * beams):
        owners = owners_by_hand(source[row // beams])
        for frame, owner in enumerate(owners):
            assert torch.allclose(found[0][row, :, :, frame], seen[0][row, :, :, owner] / owners.count(owner))
    assert torch.allclose(found[0].sum(-1), torch.ones(()), atol=1e-5)


def test_without_a_schedule_they_are_the_models_own_and_nothing_is_held_on_to() -> None:
    model, inputs = build("whisper", attention="eager"), inputs_of("whisper", (14, 14))
    with torch.no_grad():
        wanted = model(**inputs, output_attentions=True).cross_attentions
        with ps.apply_(model, ps.Schedule()):
            found = model(**inputs, output_attentions=True).cross_attentions
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
