"""Learning rate schedules, clipping, accumulation, averaged weights, and definitions that have no effect."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from check_backend import SHAPES, epoch_of, toy_batches
from torch.optim import lr_scheduler

from mlaas4hep.backends.make import make_backend
from mlaas4hep.backends.model_file import load_model_file
from mlaas4hep.backends.model_settings import unused_names
from mlaas4hep.backends.schedule import Schedule
from mlaas4hep.backends.task import Task
from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError
from mlaas4hep.stream import Batch

pytestmark = pytest.mark.framework

TWO = Task.classification(2)
NET = """
import torch
from torch import nn
from torch.optim import lr_scheduler
def model(idim): return nn.Sequential(nn.Linear(idim, 4), nn.Tanh(), nn.Dropout(0.1), nn.Linear(4, 1))
"""
SGD = "def optimizer(weights): return torch.optim.SGD(weights, lr=0.1, momentum=0.5)\n"
BATCHES = toy_batches(640, 64)


def backend_of(tmp_path, text=NET, **params):
    (tmp_path / "mine.py").write_text(text)
    return make_backend(load_model_file(str(tmp_path / "mine.py")), SHAPES, TWO, Params(**params), len(BATCHES))


def rates(backend, epochs=2):
    """The learning rate of every step."""
    found = []
    for _ in range(epochs):
        steps = backend.steps(one for one in BATCHES)
        found.append(backend.learning_rate)
        found += [backend.learning_rate for _ in steps][:-1]
    return found


def test_one_cycle_and_cosine_are_those_of_torch():
    weight = torch.nn.Parameter(torch.zeros(1))
    for name, make in (
        ("one_cycle", lambda sgd: lr_scheduler.OneCycleLR(sgd, 1.0, total_steps=50, cycle_momentum=False)),
        ("cosine", lambda sgd: lr_scheduler.CosineAnnealingLR(sgd, 50)),
    ):
        sgd = torch.optim.SGD([weight], 1.0)
        scheduler, expected = make(sgd), []
        for _ in range(50):
            expected.append(sgd.param_groups[0]["lr"])
            sgd.step()
            if len(expected) < 50:
                scheduler.step()
        factors = [Schedule(name, 0, 50).factor(step) for step in range(50)]
        np.testing.assert_allclose(factors, expected, rtol=1e-6, atol=1e-9)


def test_warm_up_is_linear_and_flat_decay_falls_to_a_hundredth():
    schedule = Schedule("flat_decay", 4, 104)
    assert [schedule.factor(step) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1])
    assert schedule.factor(74) == 1
    assert schedule.factor(89) == pytest.approx(0.1)
    assert schedule.factor(104) == schedule.factor(1000) == pytest.approx(0.01)
    for name in ("cosine", "one_cycle", "flat_decay", "constant"):
        assert all(0 <= Schedule(name, 0, total).factor(step) <= 1 for total in (1, 2, 3, 4) for step in range(6))


@pytest.mark.parametrize("kind", ["torch", "keras"])
def test_a_schedule_of_the_params_sets_the_learning_rate_of_every_step(kind, tmp_path):
    keras = "import keras\ndef model(idim): return keras.Sequential([keras.Input((idim,)), keras.layers.Dense(1)])"
    params = {"lr_schedule": "cosine", "lr_warmup": 0.5, "learning_rate": 0.02, "epochs": 2}
    backend = backend_of(tmp_path, NET if kind == "torch" else keras, **params)
    assert backend.has_schedule
    expected = [0.02 * min((step + 1) / 6, (1 + math.cos(math.pi * max(step - 5, 0) / 15)) / 2) for step in range(20)]
    if kind == "keras":  # set at the beginning of a step
        found = [backend.learning_rate for _ in range(2) for _ in backend.steps(BATCHES)]
    else:
        found = rates(backend)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


WRAPPED = """
def optimizer(weights):
    inner = torch.optim.AdamW(weights, 0.05)
    schedule = lr_scheduler.CosineAnnealingLR(inner, 12)
    inner.register_step_post_hook(lambda *_: schedule.step())
    return inner
"""
SUBCLASS = """
class Own(torch.optim.SGD):
    def __init__(self, weights):
        super().__init__(weights, lr=0.1)
        self.inner = torch.optim.Adam(weights, lr=0.1)
        self.count, self.schedule = 0, lr_scheduler.LinearLR(self.inner, 1.0, 0.1, 15)
    def step(self, closure=None):
        self.count += 1
        self.inner.step()
        self.inner.param_groups[0]["weight_decay"] = 0.1 / self.count
        self.schedule.step()
optimizer = Own
"""
SCHEDULERS = {
    "wrapped optimizer": (WRAPPED, {}),
    "subclass": (SUBCLASS, {}),
    "params": ("", {"lr_schedule": "one_cycle"}),
    "warm-up": (SGD, {"lr_warmup": 1.5, "clip_norm": 0.2}),
    "accumulation": (SGD + "accumulate = 4\n", {"ema": 0.9, "lr_schedule": "flat_decay"}),
    "per epoch": (SGD + "def scheduler(optimizer): return lr_scheduler.MultiStepLR(optimizer, [1, 2])", {}),
    "per step": (SGD + "def scheduler(optimizer, steps): return lr_scheduler.OneCycleLR(optimizer, 0.5, steps)", {}),
    "sequence": (
        SGD + """
def scheduler(optimizer):
    parts = [lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 4), lr_scheduler.CosineAnnealingLR(optimizer, 20)]
    return {"scheduler": lr_scheduler.SequentialLR(optimizer, parts, [4]), "interval": "step"}
""",
        {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_restart_at_any_batch_gives_the_same_bits(name, tmp_path):
    """The second epoch is interrupted, in the middle of an accumulation, or before it ends."""
    text, params = SCHEDULERS[name]
    whole = backend_of(tmp_path, NET + text, epochs=3, **params)
    states, rates_of_steps = [], set()
    for _ in range(3):
        for _ in whole.steps(BATCHES):
            states.append(whole.state())
            rates_of_steps.add(whole.learning_rate)
    expected = whole.snapshot()
    assert len(rates_of_steps) > 1 or name == "subclass"
    for done in (10, 13, 20, 27):  # batches before the restart
        resumed = backend_of(tmp_path, NET + text, epochs=3, **params)
        resumed.load_state(states[done - 1])
        epoch, batch = divmod(done, 10)
        if not batch:  # the last epoch has ended only in the generator
            epoch, batch = epoch - 1, 10
        for rest in (BATCHES[batch:], *([BATCHES] * (2 - epoch))):
            for _ in resumed.steps(rest):
                pass
        assert resumed.snapshot() == expected


def test_the_end_of_an_epoch_is_not_repeated_after_a_restart(tmp_path):
    text = NET + SGD + "def scheduler(optimizer): return lr_scheduler.ExponentialLR(optimizer, 0.5)"
    backend = backend_of(tmp_path, text)
    epoch_of(backend, BATCHES)
    again = backend_of(tmp_path, text)
    again.load_state(backend.state())
    assert list(again.steps([])) == []
    assert again.learning_rate == backend.learning_rate == 0.05


def test_accumulated_batches_are_a_step_of_the_large_batch(tmp_path):
    """Also with weights, and if the last step has fewer batches."""
    text = NET.replace("nn.Dropout(0.1), ", "") + SGD
    rng = np.random.default_rng(0)
    small = [replace(one, weight=rng.uniform(0.5, 2, len(one)).astype("f4")) for one in BATCHES]
    large = [Batch.concatenate(small[start : start + 4]) for start in (0, 4, 8)]
    together, accumulated = backend_of(tmp_path, text), backend_of(tmp_path, text, accumulate=4)
    assert epoch_of(together, large) == pytest.approx(epoch_of(accumulated, small), rel=1e-6)
    inputs = Batch.concatenate(small).inputs
    np.testing.assert_allclose(together.predict(inputs), accumulated.predict(inputs), atol=1e-6)


def test_the_gradient_is_clipped_to_its_maximum_norm(tmp_path):
    text = NET + "def optimizer(weights): return torch.optim.SGD(weights, lr=1.0)"
    backend = backend_of(tmp_path, text, clip_norm=0.01)
    before = [weight.clone() for weight in backend.model.parameters()]
    epoch_of(backend, BATCHES[:1])
    step = torch.cat(
        [(old - new).detach().flatten() for old, new in zip(before, backend.model.parameters(), strict=True)]
    )
    assert float(step.norm()) == pytest.approx(0.01, rel=1e-4)


def test_the_average_of_the_weights_is_scored_and_saved_instead_of_them(tmp_path):
    backend = backend_of(tmp_path, NET + SGD + "ema = 0.8")
    average = {name: tensor.clone() for name, tensor in backend.model.state_dict().items()}
    for number, _ in enumerate(backend.steps(BATCHES), start=1):
        decay = min(0.8, (1 + number) / (10 + number))
        for name, tensor in backend.model.state_dict().items():
            average[name] = decay * average[name] + (1 - decay) * tensor
    own = {name: tensor.clone() for name, tensor in backend.model.state_dict().items()}
    plain = backend_of(tmp_path, NET)
    plain.model.load_state_dict(average)
    inputs = BATCHES[0].inputs
    np.testing.assert_allclose(backend.predict(inputs), plain.predict(inputs), atol=1e-6)
    (tmp_path / backend.save(tmp_path)).exists()
    for name, tensor in torch.load(tmp_path / "model.pt", weights_only=True).items():
        torch.testing.assert_close(tensor, average[name])
    backend.state()
    for name, tensor in backend.model.state_dict().items():  # training continues with its own weights
        torch.testing.assert_close(tensor, own[name], rtol=0, atol=0)


TIED = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, idim):
        super().__init__()
        self.first = nn.Linear(idim, 1)
        self.again = self.first{again}
    def forward(self, x):
        return self.first(x)
def model(idim): return Net(idim)
"""


def test_weights_that_two_layers_share_are_averaged_once(tmp_path):
    """A second name of a layer changes nothing, also after the average was shown for a validation."""
    weights = []
    for again in ("", ".requires_grad_()"):
        text = TIED.format(again=again) if again else TIED.replace("        self.again = self.first{again}\n", "")
        backend = backend_of(tmp_path, text + SGD + "ema = 0.9")
        for _ in range(3):
            epoch_of(backend, BATCHES)
            backend.predict(BATCHES[0].inputs)
        backend.state()  # hides the average
        weights.append(backend.model.first.weight.detach().clone())
    torch.testing.assert_close(*weights, rtol=0, atol=0)


def test_a_scheduler_is_not_stepped_beyond_the_steps_that_it_was_told(tmp_path):
    """With sampling, epochs may have more batches than on average."""
    cycle = "def scheduler(optimizer, steps): return lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)\n"
    backend = backend_of(tmp_path, NET + SGD + cycle, epochs=2)
    for number in range(3):
        for _ in backend.steps(BATCHES if number < 2 else BATCHES[:5]):
            pass
    assert backend.learning_rate == pytest.approx(0.1 / 25 / 1e4)


@pytest.mark.parametrize("name", ["sklearn", "xgboost"])
def test_settings_of_gradient_descent_are_refused_for_estimators(name, tmp_path):
    texts = {
        "sklearn": "from sklearn.linear_model import LogisticRegression as Any\n",
        "xgboost": "from xgboost import XGBClassifier as Any\n",
    }
    text = f"{texts[name]}def model(idim): return Any()\n"
    for params in ({"learning_rate": 0.5}, {"ema": 0.9}, {"lr_schedule": "cosine"}, {"accumulate": 2}):
        with pytest.raises(
            ConfigError, match=rf"^'{next(iter(params))}' has no effect on the estimator of .*mine.py; leave"
        ):
            backend_of(tmp_path, text, **params)
    backend_of(tmp_path, text)


def test_weight_decay_of_the_params_applies_to_matrices_only(tmp_path):
    groups = backend_of(tmp_path, weight_decay=0.3)._optimizer._optimizer.param_groups
    assert [(group["weight_decay"], [weight.ndim for weight in group["params"]]) for group in groups] == [
        (0.3, [2, 2]),
        (0.0, [1, 1]),
    ]


def test_optimizer_may_take_the_model(tmp_path):
    text = NET + "def optimizer(weights, model): return torch.optim.SGD(model[0].parameters(), lr=0.25)"
    backend = backend_of(tmp_path, text)
    assert backend.learning_rate == 0.25
    before = backend.model[3].weight.clone()
    epoch_of(backend, BATCHES)
    assert torch.equal(backend.model[3].weight, before)


def test_settings_of_the_params_take_precedence_over_those_of_the_file(tmp_path):
    text = NET + SGD + "lr_schedule = 'cosine'\n"
    assert backend_of(tmp_path, text).has_schedule
    assert not backend_of(tmp_path, text, lr_schedule="constant").has_schedule
    with pytest.raises(ConfigError, match=r"'accumulate' in .*mine.py cannot be 0: input should be greater than"):
        backend_of(tmp_path, NET + "accumulate = 0")


KERAS = """
import keras
def model(idim):
    net = keras.Sequential([keras.Input((idim,)), keras.layers.Dense(1)])
    return net
"""
COMPILED = KERAS.replace("    return", "    net.compile('adam', 'binary_crossentropy')\n    return")
PLATEAU = "def scheduler(optimizer): return lr_scheduler.ReduceLROnPlateau(optimizer)"


@pytest.mark.parametrize(
    ("optimizer", "params"),
    [
        ("optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.1, 15, warmup_steps=3))", {}),
        ("optimizer = keras.optimizers.SGD(0.5, momentum=0.9, global_clipnorm=0.1)", {"lr_schedule": "flat_decay"}),
    ],
)
def test_a_restart_of_a_keras_model_with_a_schedule_gives_the_same_bits(optimizer, params, tmp_path):
    whole = backend_of(tmp_path, KERAS + optimizer, epochs=2, **params)
    assert whole.has_schedule
    states = [whole.state() for _ in range(2) for _ in whole.steps(BATCHES)]
    resumed = backend_of(tmp_path, KERAS + optimizer, epochs=2, **params)
    resumed.load_state(states[12])
    for _ in resumed.steps(BATCHES[3:]):
        pass
    assert resumed.state() == states[-1]
    assert resumed.learning_rate == whole.learning_rate


@pytest.mark.parametrize(
    ("text", "params", "says"),
    [
        (NET + PLATEAU, {}, "ReduceLROnPlateau, which needs the validation loss; set 'lr_patience'"),
        (NET + "def scheduler(optimizer): return 3", {}, "`scheduler` of .* returns 3 .*; it must return a scheduler"),
        (NET + "scheduler = 'cosine'", {}, "`scheduler` of .* is 'cosine'; it must be a function"),
        (NET + WRAPPED, {"lr_schedule": "cosine"}, "already has a learning rate schedule; lr_schedule"),
        (NET + WRAPPED, {"lr_patience": 1}, "already has a learning rate schedule; set 'lr_patience' to 0"),
        (NET + SGD, {"learning_rate": 0.1}, "defines its own optimizer, so that 'learning_rate' in the params has no"),
        (COMPILED, {"weight_decay": 0.1}, "defines its own optimizer, so that 'weight_decay' in the params has no"),
        (KERAS, {"clip_norm": 1.0}, "'clip_norm' is not supported for the Keras .* the argument global_clipnorm"),
    ],
)
def test_settings_that_contradict_each_other_are_a_line(text, params, says, tmp_path):
    with pytest.raises(ConfigError, match=says):
        backend_of(tmp_path, text, **params)


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"lr_schedule": "one_cycle", "lr_warmup": 1}, "one_cycle, which has its own warm-up"),
        ({"lr_schedule": "cosine", "lr_patience": 1}, "'lr_patience' cannot be combined with 'lr_schedule'"),
        ({"lr_warmup": 9, "epochs": 5}, "'lr_warmup' is 9, but 'epochs' is 5; reduce 'lr_warmup'"),
    ],
)
def test_params_that_contradict_each_other_are_a_line(params, says):
    with pytest.raises(ConfigError, match=says):
        Params.parse(params)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (NET + "def optimiser(weights): pass", ["'optimiser' of PATH is not used; closest: 'optimizer'"]),
        (NET + "lossfn = nn.BCEWithLogitsLoss()", ["'lossfn' of PATH is not used; closest: 'loss'"]),
        (NET + "callbacks = []\nepochs = 3", ["'callbacks' of PATH is not used; callbacks are not supported; see"
         " 'patience', 'lr_patience' and 'tensorboard' of the params",
         "'epochs' of PATH is not used; set it in the params"]),
        (NET + "loss = mse_loss = nn.MSELoss(reduction='none')\nprint(mse_loss)\n_unread = __all__ = 1\n"
         "def weird(): pass", []),
        (KERAS + "def scheduler(optimizer): pass\nema = 0.5", ["'scheduler' of PATH has no effect on this keras model",
         "'ema' of PATH has no effect on this keras model"]),
        (COMPILED + "loss = 'mse'", ["'loss' of PATH has no effect on this keras model"]),
    ],
)  # fmt: skip
def test_definitions_without_effect_are_named(text, says, tmp_path):
    (tmp_path / "mine.py").write_text(text)
    file = load_model_file(str(tmp_path / "mine.py"))
    backend = make_backend(file, SHAPES, TWO, Params(ema=0.0, accumulate=1, clip_norm=0.0))
    lines = list(unused_names(file, backend.reads, backend.framework))
    assert lines == [line.replace("PATH", str(file.path)) for line in says]
