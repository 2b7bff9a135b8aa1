"""Your own training loop, on a server: pull into a module, push its gradients. Three lines change:

    with connect("tcp://127.0.0.1:5555", model) as server:
        for inputs, targets in batches:
            server.pull()
            loss = criterion(model(inputs), targets)
            loss.backward()
            server.push(loss)

Never in here: data, an optimizer (it is the server's), or a lie.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kardam.client import Client, Halted, enrol, reach
from kardam.errors import Denied, UsageError, suggest
from kardam.growth import History
from kardam.kits import address
from kardam.link import Lease
from kardam.messages import COUNT_MAX, LABEL_MAX, Gradient, Judged, Vector
from workers.parameters import agree, manifest_of, trained

# Seconds: for a connection, for a place, and without a word from a server that is started again.
CONNECT = 3.0
ENROL = 30.0
PATIENCE = 600.0

# What a group says of its parameters, besides which they are; and what holds where it is silent.
KEYS = {"rate": 1.0, "weight_decay": 0.0}


class Training:
    """A module's place among the n workers of a server; made by `connect`.

    `worker` of `n` it is (from 0), which says whose share of the data to train on; `ended` is why
    the server ended the run, once it did.
    """

    def __init__(
        self, client: Client, module: nn.Module, groups: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        self._named = trained(module)
        manifest = manifest_of(self._named)
        agree(manifest, client.manifest)
        self._places = manifest.places()
        self._terms = _terms(module, groups)
        self._client = client
        self._x = torch.empty(manifest.d)
        self._lease: Lease | None = None
        self._epoch = client.epoch
        self._history = History()
        self.worker, self.n, self.seed = (
            client.terms.worker,
            client.terms.n,
            client.terms.seed,
        )
        self.ended = ""

    @torch.no_grad()
    def pull(self) -> int:
        """The newest model into the module, whose gradients become None; its version.

        Until that model is answered by `push`, another pull is the same model again. Waits while
        the server has fewer than n - f workers. Frozen parameters and buffers stay as they are.
        """
        if self._lease is None:
            self._lease = self._client.pull()
            if self._client.epoch != self._epoch:
                self._epoch, self._history = self._client.epoch, History()
        model = self._lease.model
        self._x.numpy()[:] = model.x
        for (_, p), place in zip(self._named, self._places, strict=True):
            p.copy_(self._x[place].view(p.shape))
            p.grad = None
        return model.version

    def push(self, loss: Tensor | float = math.nan, examples: int = 0) -> Judged:
        """The gradients that the module has, as the answer to the last pull; the verdict on them.

        What several `backward` have summed is one answer. A parameter without a gradient counts as
        zeros. `loss` and `examples` are for the server's books alone. Raises UsageError where there
        is nothing to answer, or to answer with, and for `examples` that are no number of them.
        """
        lease = self._lease
        if lease is None:
            raise UsageError("push: there is no model to answer; pull first")
        if not 0 <= examples <= COUNT_MAX:
            raise UsageError(f"push: expected examples >= 0, got {examples}")
        g = self._gradient()
        change = self._history.add(lease.ticket, lease.model.version, g, lease.model.x)
        declared = change.declared if change is not None else None
        number = float(loss.item() if isinstance(loss, Tensor) else loss)
        answer = Gradient(self.worker, lease.ticket, g, declared, number, int(examples))
        self._lease = None
        return self._client.push(answer)

    def _gradient(self) -> Vector:
        """rate * (gradient + weight_decay * x), parameter by parameter."""
        if all(p.grad is None for _, p in self._named):
            raise UsageError("push: no parameter has a gradient; call backward on the loss first")
        g = np.zeros(self._x.numel(), np.float32)
        flat = torch.from_numpy(g)
        for (_, p), place in zip(self._named, self._places, strict=True):
            rate, decay = self._terms.get(p, (1.0, 0.0))
            if p.grad is not None:
                dense = p.grad.to_dense() if p.grad.is_sparse else p.grad
                flat[place] = dense.to("cpu", torch.float32).reshape(-1)
            if decay:
                flat[place] += decay * p.detach().to("cpu", torch.float32).reshape(-1)
            if rate != 1.0:
                flat[place] *= rate
        return g


@contextlib.contextmanager
def connect(
    endpoint: str,
    module: nn.Module,
    groups: Sequence[Mapping[str, Any]] = (),
    *,
    label: str = "",
    patience: float = PATIENCE,
) -> Iterator[Training]:
    """A place for `module` among the server's workers while the block runs, and a goodbye after.
    Where the server takes nobody without a key, `endpoint` is a kit's file (kardam keys kit).

    When the server ends the run, the block ends, quietly. `groups` are as for torch.optim, with
    `rate`, a factor on the server's, and `weight_decay`: [{"params": model.head.parameters(),
    "rate": 10}]; every worker should have the same. `label` is what the server's books call it;
    `patience`, the seconds of silence that are borne.

    Raises Unreachable (no server), Denied (it says no), TaskError (its model is another one) and
    UsageError (an endpoint, a label or a group that cannot be).
    """
    if len(label) > LABEL_MAX or not label.isprintable():
        raise UsageError(f"label: expected at most {LABEL_MAX} printable characters, got {label!r}")
    endpoint, keys = address(endpoint)
    reach(endpoint, CONNECT)
    place = enrol(endpoint, label, byzantine=False, patience=ENROL, keys=keys)
    with contextlib.ExitStack() as line:
        try:
            client = line.enter_context(
                Client(
                    endpoint,
                    "worker",
                    token=place.token,
                    keys=keys,
                    label=label,
                    patience=patience,
                )
            )
        except Halted as end:
            raise Denied(f"{endpoint}: {end}") from end
        training = Training(client, module, groups)
        try:
            yield training
        except Halted as end:
            training.ended = str(end)


def _terms(
    module: nn.Module, groups: Sequence[Mapping[str, Any]]
) -> dict[nn.Parameter, tuple[float, float]]:
    """Rate and weight decay of the parameters that are in a group. Raises UsageError."""
    known = set(module.parameters())
    terms: dict[nn.Parameter, tuple[float, float]] = {}
    for number, group in enumerate(groups):
        where = f"groups[{number}]"
        if "params" not in group:
            raise UsageError(f"{where}: the key 'params' is needed")
        for key in group.keys() - {"params", *KEYS}:
            raise UsageError(f"{where}: unknown key {key!r}{suggest(key, ['params', *KEYS])}")
        rate, decay = (float(group.get(key, KEYS[key])) for key in ("rate", "weight_decay"))
        if not 0 < rate < math.inf:
            raise UsageError(f"{where}: expected 0 < rate < inf, got {rate:g}")
        if not 0 <= decay < math.inf:
            raise UsageError(f"{where}: expected 0 <= weight_decay < inf, got {decay:g}")
        params = group["params"]
        for p in [params] if isinstance(params, nn.Parameter) else params:
            if p not in known:
                raise UsageError(f"{where}: a parameter that is not the module's")
            if p in terms:
                raise UsageError(f"{where}: a parameter that stands in a group already")
            terms[p] = rate, decay
    return terms
