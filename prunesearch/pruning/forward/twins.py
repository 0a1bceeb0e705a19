"""Blocks that are smaller under the changes of a plan: shadows of a model's own, which each thread's forwards run.

A shadow is the block with other modules in the places of some of its own, and other numbers of heads said; all that is
not changed is the block's own. Who runs the blocks takes it instead, and the block stays as it is, to the last bit.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.tables.registry import CHANGES
from prunesearch.pruning.forward.beside import HeldFits, fits_of

_HEADS = ("num_attention_heads", "num_heads", "n_heads")  # what attention modules call them
_ALL_HEADS = ("all_head_size", "inner_dim", "embed_dim", "dim")  # and their width together
_MOST_PLANS = 16  # whose blocks are at hand
_MOST_BYTES = 2**30  # of weights that shadows have beside the model's own
Fits = Mapping[str, Mapping[str, Tensor]]  # what was fitted on calibration rows, by change as it prints itself


class ChangesBlock(Protocol):
    """What a row of `CHANGES` with `halves` makes of a change's parameters."""

    def change(self, own: Shadow, fit: Mapping[str, Tensor]) -> None:
        """Change a shadow of a block."""


class Twin(NamedTuple):
    """A block as a plan has it, and its attention module."""

    block: nn.Module
    core: nn.Module


class _Made(NamedTuple):
    """A shadow with one change, what it was made of, and about how many bytes it has beside the block's weights."""

    own: Shadow
    weights: Seen
    held: HeldFits | None
    extra: int


class Twins:
    """The blocks of a model that plans have made smaller.

    Args:
        blocks: of the encoder.
        core: path, from each, of its attention module.
        bound: see `Shadow`.
        around: modules one of which may hold weights that changes were trained with, which go before `fits`.
    """

    def __init__(
        self, blocks: Sequence[nn.Module], core: str, bound: str = "", around: Sequence[nn.Module] = ()
    ) -> None:
        self.blocks, self.core, self.bound, self.around = list(blocks), core, bound, around
        self.fits = dict[str, Mapping[str, Tensor]]()
        self._made: OrderedDict[Any, _Made] = OrderedDict()
        # blocks by all changes of a plan, with the weights that they were made of: asked for at every forward
        self._blocks: OrderedDict[Any, tuple[list[Seen], HeldFits | None, dict[int, Twin]]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": OrderedDict(), "_blocks": OrderedDict()}  # a copy makes its own

    def of(self, changes: Iterable[Any]) -> dict[int, Twin]:
        """The blocks that are others under some changes, by their numbers.

        Raises:
            PruneSearchError: for a block that the model does not have, one that a change does not fit, or weights that
                were not given.
        """
        every, held, training = tuple(changes), fits_of(self.around), self.blocks[0].training
        known = self._blocks.get((every, training))
        if known is None or known[1] is not held or not all(seen.same() for seen in known[0]):
            own = self._own(every)
            weights = [Seen(self.blocks[index]) for index in own]
            made = {
                index: self._twin(index, mine, tuple(c for c in every if not c.half and c.block in (None, index)))
                for index, mine in own.items()
            }
            known = self._blocks[every, training] = (weights, held, made)
            while len(self._blocks) > _MOST_PLANS:
                self._blocks.popitem(last=False)
        return known[2]

    def _own(self, changes: Iterable[Any]) -> dict[int, list[Any]]:
        """The changes that make blocks others, by the numbers of these."""
        own: dict[int, list[Any]] = {}
        for change in changes:
            if change.half and change.block >= len(self.blocks):
                raise PruneSearchError(
                    f"`block < {len(self.blocks)}` must hold for a model of {len(self.blocks)} blocks, but got {change}"
                )
            if change.half and not CHANGES.entry(change.kind).removes:
                own.setdefault(change.block, []).append(change)
        return own

    def shadows(self, changes: Iterable[Any]) -> dict[int, Shadow]:
        """Those of the blocks that are others under changes of halves, by their numbers; raises as `of`."""
        return {index: self._shadow(index, mine, ()) for index, mine in self._own(changes).items()}

    def _shadow(self, index: int, mine: Iterable[Any], whole: tuple[Any, ...]) -> Shadow:
        found = Shadow(self.blocks[index], self.core, self.bound)
        for change in mine:
            found.take(self._half(index, change, whole))
        return found

    def _twin(self, index: int, mine: Iterable[Any], whole: tuple[Any, ...]) -> Twin:
        block = self._shadow(index, mine, whole).block
        return Twin(block, block.get_submodule(self.core))

    def _half(self, index: int, change: Any, whole: tuple[Any, ...]) -> Shadow:
        """A shadow with one change, made once for all plans that have it, as long as all weights are the same."""
        block, held = self.blocks[index], fits_of(self.around)
        key = (index, change, whole, block.training)
        made = self._made.get(key)
        if made is None or made.held is not held or not made.weights.same():
            fit = self._fit(change, held)
            made = self._made[key] = _Made(self._make(block, change, fit, whole), Seen(block), held, _bytes_of(fit))
            while len(self._made) > 1 and sum(one.extra for one in self._made.values()) > _MOST_BYTES:
                self._made.popitem(last=False)
        if key in self._made:  # another thread may have let go of it
            self._made.move_to_end(key)
        return made.own

    def _fit(self, change: Any, held: HeldFits | None) -> Mapping[str, Tensor]:
        own = None if held is None else held.of(str(change))
        fit = own or self.fits.get(str(change), None if CHANGES.entry(change.kind).fitted else {})
        if fit is None:
            raise PruneSearchError(
                f"'{change}' has weights that were fitted on calibration rows: give them, "
                "ps.apply_(model, plan, fits=ps.load_fits(STUDY)), or those of ps.fit_plan(model, plan, batches)"
            )
        return fit

    def _make(self, block: nn.Module, change: Any, fit: Mapping[str, Tensor], whole: Iterable[Any]) -> Shadow:
        own = Shadow(block, self.core, self.bound)
        makes: ChangesBlock = CHANGES.load(change.kind)(**dict(change.params))
        makes.change(own, fit)
        for one in whole:
            own.convert(CHANGES.load(one.kind)(**dict(one.params)))
        return own


def _bytes_of(fit: Mapping[str, Tensor]) -> int:
    """About what a change has of weights of its own; the layers before a half's last one have as many again."""
    return 2 * sum(value.numel() * value.element_size() for value in fit.values())


class Shadow:
    """A block with other modules in the places of some of its own.

    Args:
        original: stays as it is.
        core: path of the module that computes its attention.
        bound: what its heads are bound to, in a clause; empty where they can be fewer.
    """

    def __init__(self, original: nn.Module, core: str, bound: str = "") -> None:
        self.core, self.bound = core, bound
        self.block = _apart(original)
        self._mine = {"": self.block}  # modules that are no longer the original's, by their paths
        self.others: dict[str, nn.Module] = {}  # what was put into it
        self.counts: tuple[int, int, int] | None = None  # what was said of its heads
        self.said: dict[str, dict[str, int]] = {}  # the numbers, by the paths of the modules that have them

    def put(self, path: str, module: nn.Module) -> None:
        """Put a module where another is."""
        above, _, name = path.rpartition(".")
        self._own(above)._modules[name] = module
        self.others[path] = module

    def take(self, other: Shadow) -> None:
        """Make the changes that another shadow of the same block has."""
        for path, module in other.others.items():
            self.put(path, module)
        if other.counts is not None:
            self.recount(*other.counts)

    def recount(self, before: int, after: int, size: int) -> None:
        """Tell its attention that there are fewer heads, of `size` each.

        Raises:
            PruneSearchError: where something else counts them too.
        """
        if self.bound:
            raise PruneSearchError(f"the heads of this model cannot be fewer ({self.bound}): leave them alone")
        path, self.counts = self.core.split("."), (before, after, size)
        known = {**dict.fromkeys(_HEADS, before), **dict.fromkeys(_ALL_HEADS, before * size)}
        new = {before: after, before * size: after * size}
        for end in range(1, len(path) + 1):
            place = ".".join(path[:end])
            own = self._own(place).__dict__
            self.said[place] = {name: new[value] for name, value in known.items() if own.get(name) == value}
            own.update(self.said[place])

    def convert(self, makes: Any) -> None:
        """Put twins of single modules (`leaves.MakesTwins`) in the places of those that are other than the block's;
        the block's own have theirs (`leaves.Leaves`)."""
        for path, module in [*self.others.items()]:
            for name, leaf in [*module.named_modules()]:
                made = makes.twin(leaf)
                if made is None:
                    continue
                if not name:
                    self.put(path, made)
                    break
                above, _, last = name.rpartition(".")
                module.get_submodule(above)._modules[last] = made

    def _own(self, path: str) -> nn.Module:
        """The module at `path`, which is the shadow's own from now on."""
        if path not in self._mine:
            above, _, name = path.rpartition(".")
            parent = self._own(above)
            parent._modules[name] = self._mine[path] = _apart(self.block.get_submodule(path))
        return self._mine[path]


def _apart(module: nn.Module) -> nn.Module:
    """The same module as another object, whose parts can be others; what was put over its forward here is left out.

    Raises:
        PruneSearchError: for one that has methods or hooks of its own, which would go on with the original.
    """
    own = module.__dict__
    forward = own.get("forward")
    tied = [name for name, value in own.items() if name != "forward" and getattr(value, "__self__", None) is not None]
    hooks = [
        h for m in (module, *module.children()) for h in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())
    ]
    watched = any(_is_of_a_family(hook) for hook in hooks)
    if not getattr(forward, "ours", forward is None) or tied or (watched and not hasattr(forward, "driver")):
        raise PruneSearchError(
            f"{type(module).__name__} is looked into from outside, so that its layers cannot be others: leave it whole"
        )
    made: nn.Module = object.__new__(type(module))
    made.__dict__.update(own)
    made.__dict__.pop("forward", None)
    for name in ("_parameters", "_buffers", "_modules"):
        made.__dict__[name] = dict(own[name])
    return made


def _is_of_a_family(hook: Any) -> bool:
    """Whether a hook looks into one module for a family here; transformers' own look into any that they are on."""
    return str(getattr(getattr(hook, "func", hook), "__module__", "")).startswith("prunesearch.pruning.families")


class Seen:
    """The weights of a module as they are now; asked at every forward, without walking its tree anew.

    Args:
        module: any.
        below: those of its children too.
    """

    def __init__(self, module: nn.Module, *, below: bool = True) -> None:
        modules = list(module.modules()) if below else [module]
        self._places = [(m._modules, name, child) for m in modules for name, child in m._modules.items() if below]
        self._weights = [
            (kind, name, value, *_state(value))
            for m in modules
            for kind in (m._parameters, m._buffers)
            for name, value in kind.items()
            if value is not None
        ]

    def same(self) -> bool:
        """False once a module or a weight was replaced, moved, or written to."""
        for children, name, child in self._places:
            if children.get(name) is not child:
                return False
        for own, name, value, pointer, version in self._weights:
            if own.get(name) is not value or (pointer, version) != _state(value):
                return False
        return True


def _state(value: Tensor) -> tuple[Any, int]:
    return value.data_ptr(), 0 if value.is_inference() else value._version
