"""The interface of loaded models: the names of their input columns, the matrix of a request, and the scores.

named = NamedInput(Tensor("inputs", (5,)), columns)
named.rows(parse_request(body)).matrix              # float32 (n, 5), NaN for missing values
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlaas4hep.errors import ConfigError
from mlaas4hep.protocol.limits import DEFAULTS
from mlaas4hep.serving.models.request_preprocessing import RequestPreprocessing
from mlaas4hep.serving.models.rows import Columns, Matrix, Request, Rows, plain_rows
from mlaas4hep.serving.models.tensor import Tensor


class NamedInput:
    """The input of a model, whose columns may have names.

    Args:
        input_tensor: the input, float32; its shape per event is (features,) or, for images, (height, width, channels).
        columns: its columns; None if the model does not name them.
        preprocessing: computes some of the columns from raw branches; None if the model has none.

    Attributes:
        input, preprocessing: the same.
    """

    def __init__(
        self, input_tensor: Tensor, columns: Columns | None, preprocessing: RequestPreprocessing | None = None
    ) -> None:
        self.input = input_tensor
        self.preprocessing = preprocessing
        self._columns = columns

    @property
    def keys(self) -> Sequence[str] | None:
        """Names of the input columns, in order; None if the model does not name them."""
        return self._columns.names if self._columns else None

    @property
    def branches(self) -> Mapping[str, tuple[int, int, str]]:
        """Branch -> (first column, number of columns, "flat", "fixed" or "jagged"); may be empty."""
        return self._columns.branches if self._columns else {}

    def preprocesses(self, request: Request) -> bool:
        """Return whether `rows` evaluates expressions of the model for a request, which may take long."""
        return self.preprocessing is not None and self.preprocessing.applies_to(request.keys)

    def rows(self, request: Request) -> Rows:
        """Return the input matrix for a request.

        Raises:
            ConfigError: the request does not fit the model, or the model takes images.
        """
        if self.input.is_image:
            hint = "send a PNG or JPEG file to POST /image"
            raise ConfigError("the model takes images, not rows of values", hint=hint)
        if self.preprocessing is not None and self.preprocesses(request):
            return self.preprocessing.rows(request)
        return self._columns.rows(request) if self._columns else plain_rows(request, self.input.shape[0])


class Predictor(NamedInput):
    """A model that is ready to run; may be used from many threads at once.

    Attributes:
        platform: framework and format, in the terms of the Open Inference Protocol, as in "onnxruntime_onnx".
        in_process: whether the model runs in the server's own process.
        rows_independent: whether rows do not affect each other's scores, so that requests can share a batch.
        output: the output, float32; its shape per event is (k,).
        labels: names of the classes; may be empty.
        name: name of the model in the store.
        most_rows: rows of one run; a request with more takes several runs if rows are independent. 0: no limit.
    """

    platform: str
    in_process: bool
    rows_independent = True
    output: Tensor
    labels: Sequence[str]
    name = ""
    most_rows = 0

    @property
    def alive(self) -> bool:
        """Whether the model can still run; False if its process has ended."""
        return True

    def predict(self, rows: Matrix, seconds: float = DEFAULTS.request_time) -> Matrix:
        """Return the scores, float32 (n, k), of float32 (n, features), or of images (n, height, width, channels).

        Args:
            seconds: time limit.

        Raises:
            ConfigError: the model does not accept the rows.
            TooLong: the run exceeded the time limit and was stopped.
            ServiceError: the model's process died, is busy, or exceeded its memory limit.
        """
        raise NotImplementedError
