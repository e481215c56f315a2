"""DataReader on tiny files with known content, and against NumPy on real files."""

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot
from realdata import case_file, real_file
from tinyroot import write_events, write_tree

from mlaas4hep.errors import BranchNotFound, ConfigError, SpecsMismatch
from mlaas4hep.expressions.preproc_file import load_preproc
from mlaas4hep.io.prefetch import map_ordered
from mlaas4hep.reader import METHODS, DataReader, Specs

LISTS = [[5.0, 3.0], [], [7.0], [1.0, 2.0, 4.0]]


NANOAOD = "nanoAOD_2015_CMS_Open_Data_ttbar.root"


@pytest.fixture
def toy(tmp_path):
    """Four events by hand."""
    columns = {
        "run": np.array([1, 1, 2, 2], np.uint32),
        "event": np.array([2**53 + 1, 2**63 + 1, 3, 2**64 - 1], np.uint64),
        "z": np.array([10, 20, 30, 40], np.int16),
        "a": np.array([0.5, np.nan, np.inf, -np.inf]),
        "ok": np.array([True, False, True, True]),
        "list": ak.Array(LISTS),
        "xyz": np.arange(12, dtype=np.float32).reshape(4, 3),
    }
    write_tree(tmp_path / "toy.root", columns, clusters=2)
    return tmp_path / "toy.root"


def only_chunk(reader):
    """The one chunk of a reader."""
    (chunk,) = reader
    return chunk


def test_flat_branches_precede_lists_and_each_kind_is_sorted_by_name(toy):
    reader = DataReader(toy)
    assert reader.columns == ["a", "nlist", "ok", "xyz_0", "xyz_1", "xyz_2", "z", "list_0", "list_1", "list_2"]
    assert reader.num_entries == 4


def test_vectors_have_values_padding_nan_and_infinity_in_the_right_columns(toy):
    chunk = only_chunk(DataReader(toy, selected_branches=["a", "z", "list"], normalise="none"))
    nan, inf = np.nan, np.inf
    expected = [[0.5, 10, 5, 3, nan], [nan, 20, nan, nan, nan], [inf, 30, 7, nan, nan], [-inf, 40, 1, 2, 4]]
    np.testing.assert_array_equal(chunk.x, np.array(expected, np.float32))
    assert chunk.x.dtype == np.float32
    np.testing.assert_array_equal(chunk.mask, ~np.isnan(expected))


def test_64_bit_event_numbers_are_exact_and_not_features(toy):
    reader = DataReader(toy)
    chunk = only_chunk(reader)
    assert chunk.ids["event"].tolist() == [2**53 + 1, 2**63 + 1, 3, 2**64 - 1]
    assert chunk.entries.tolist() == [0, 1, 2, 3]
    assert not {"run", "event"} & set(reader.columns)


def test_nan_and_infinite_values_are_counted_and_excluded_from_the_extremes(toy):
    branch = DataReader(toy).specs.branches["a"]
    assert (branch.count, branch.nan, branch.inf, branch.minimum, branch.maximum) == (1, 1, 2, 0.5, 0.5)


@pytest.mark.parametrize("method", METHODS[:3])
def test_normalised_values_are_finite_and_padding_has_the_fill_value(toy, method):
    chunk = only_chunk(DataReader(toy, normalise=method, nan=-7.0))
    assert np.isfinite(chunk.x).all()
    assert (chunk.x[~chunk.mask] == -7).all()
    assert np.isnan(only_chunk(DataReader(toy, normalise=method)).x[~chunk.mask]).all()


def test_minmax_uses_the_formula_of_the_original_mlaas4hep(toy):
    chunk = only_chunk(DataReader(toy, selected_branches=["z", "list"], normalise="minmax"))
    np.testing.assert_allclose(chunk.x[:, 0], [0, 1 / 3, 2 / 3, 1], rtol=1e-6)
    np.testing.assert_allclose(chunk.x[3, 1:], (np.array([1, 2, 4]) - 1) / 6, rtol=1e-6)


def test_standard_has_mean_0_and_deviation_1(tmp_path):
    write_events(tmp_path / "a.root", 5000)
    x = np.concatenate([chunk.x for chunk in DataReader(tmp_path / "a.root", normalise="standard")])
    assert np.nanmean(x[:, 0]) == pytest.approx(0, abs=1e-4)
    assert np.nanstd(x[:, 0]) == pytest.approx(1, abs=1e-4)


def test_auto_limits_the_effect_of_outliers_on_other_values(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.normal(50, 5, 10_000)
    values[:5] = 1e7
    gauss = rng.normal(0, 1, 10_000)
    write_tree(tmp_path / "a.root", {"heavy": values, "gauss": gauss})
    chunk = only_chunk(DataReader(tmp_path / "a.root"))
    gauss_column, heavy_column = chunk.x.T
    np.testing.assert_allclose(gauss_column, (gauss - gauss.mean()) / gauss.std(), atol=1e-4)
    assert np.quantile(heavy_column, 0.9) - np.quantile(heavy_column, 0.1) > 1
    assert heavy_column.max() < 30
    assert (np.argsort(heavy_column[5:]) == np.argsort(values[5:].astype(np.float32))).mean() > 0.999


def test_lists_longer_than_in_the_specs_are_truncated_and_counted(toy):
    short = DataReader(toy, selected_branches=["list"], nevts=2).specs
    reader = DataReader(toy, specs=short, normalise="none")
    np.testing.assert_array_equal(only_chunk(reader).x[3], [1, 2])
    assert reader.truncated == {"list": 1}


def test_specs_of_other_data_are_refused_with_the_difference(toy, tmp_path):
    write_events(tmp_path / "b.root", 10)
    with pytest.raises(SpecsMismatch, match="missing: a, nlist, ok and 3 more"):
        DataReader(tmp_path / "b.root", specs=DataReader(toy).specs)


def test_specs_determine_the_branches_by_default(toy):
    specs = DataReader(toy, selected_branches=["z", "list"]).specs
    assert DataReader(toy, specs=specs).columns == ["z", "list_0", "list_1", "list_2"]


def test_specs_can_be_given_as_a_file(toy, tmp_path):
    reader = DataReader(toy)
    reader.specs.save(str(tmp_path / "specs.json"))
    assert (
        DataReader(toy, specs=tmp_path / "specs.json").specs == reader.specs == Specs.load(str(tmp_path / "specs.json"))
    )


@pytest.mark.parametrize("chunk_size", [1, 3, 100, 12_345])
def test_chunks_contain_every_event_once_in_order_and_are_not_too_large(tmp_path, chunk_size):
    write_events(tmp_path / "a.root", 1000, clusters=7)
    chunks = list(DataReader(tmp_path / "a.root", chunk_size=chunk_size))
    assert np.concatenate([chunk.entries for chunk in chunks]).tolist() == list(range(1000))
    assert max(map(len, chunks)) <= chunk_size


def test_nevts_limits_the_events_and_0_limits_only_the_first_pass(tmp_path):
    write_events(tmp_path / "a.root", 30_000, clusters=3)
    first = DataReader(tmp_path / "a.root", nevts=1234)
    assert first.specs.events == sum(map(len, first)) == 1234
    every = DataReader(tmp_path / "a.root", nevts=0)
    assert every.specs.events == 20_000
    assert sum(map(len, every)) == 30_000


@pytest.mark.parametrize(
    ("selected", "excluded", "columns"),
    [
        (["z"], None, ["z"]),
        (["xyz", "l*"], None, ["xyz_0", "xyz_1", "xyz_2", "list_0", "list_1", "list_2"]),
        (["/[oz]k?/"], None, ["ok", "z"]),
        (None, ["xyz", "list", "nlist", "/a|ok/"], ["z"]),
        (["z", "ok"], ["ok"], ["z"]),
    ],
)
def test_branches_are_chosen_by_name_glob_and_regular_expression(toy, selected, excluded, columns):
    assert DataReader(toy, selected_branches=selected, exclude_branches=excluded).columns == columns


def test_selected_branches_can_be_listed_in_a_file(toy, tmp_path):
    (tmp_path / "wanted.txt").write_text("z  # the height\n\no*\n")
    assert DataReader(toy, selected_branches=[f"@{tmp_path / 'wanted.txt'}"]).columns == ["ok", "z"]


def test_an_explicit_identifier_must_exist(toy):
    assert DataReader(toy).identifier == ("run", "event")
    with pytest.raises(BranchNotFound, match="closest: 'run'"):
        DataReader(toy, identifier=["runs"])
    with pytest.raises(ConfigError, match="not one number per event"):
        DataReader(toy, identifier=["list"])


def test_the_error_for_an_unknown_branch_suggests_the_nearest(toy):
    with pytest.raises(BranchNotFound, match="closest: 'list'"):
        DataReader(toy, selected_branches=["lists"])


def test_an_empty_file_gives_no_chunks_and_empty_specs(tmp_path):
    write_events(tmp_path / "a.root", 0)
    reader = DataReader(tmp_path / "a.root")
    assert reader.specs.events == 0
    assert list(reader) == []


@pytest.mark.parametrize("inputs", [None, {"tracks": {"branches": ["pt"], "length": 3}, "rest": {"branches": ["met"]}}])
def test_results_do_not_depend_on_the_number_of_threads(inputs, tmp_path):
    columns = write_events(tmp_path / "a.root", 60_000, clusters=6)
    kept = []
    for workers in (1, 2, 3):
        with DataReader(tmp_path / "a.root", workers=workers, chunk_size=7000, inputs=inputs) as reader:
            assert len(reader.blocks()) == 6
            chunks, specs = list(reader), reader.specs
        assert np.concatenate([chunk.ids["event"] for chunk in chunks]).tolist() == list(range(60_000))
        kept.append((specs, [{**chunk.inputs, **chunk.ids, "entries": chunk.entries} for chunk in chunks]))
    for specs, chunks in kept[1:]:
        assert specs == kept[0][0]
        for chunk, first in zip(chunks, kept[0][1], strict=True):
            assert list(chunk) == list(first)
            for name, values in chunk.items():
                np.testing.assert_array_equal(values, first[name], err_msg=name)
                assert values.dtype == first[name].dtype
    assert kept[0][0].branches["pt"].count == ak.sum(ak.num(columns["pt"]))


@pytest.mark.parametrize("workers", [1, 2])
def test_lists_are_read_as_written_for_any_number_of_threads(workers, tmp_path):
    columns = write_events(tmp_path / "a.root", 60_000, clusters=6)
    with DataReader(tmp_path / "a.root", workers=workers) as reader:
        blocks = reader.blocks()
        parts = [values["pt"] for values, _ in map_ordered(lambda span: reader.read_columns(*span), blocks, workers)]
    assert np.concatenate([part.counts for part in parts]).tolist() == ak.num(columns["pt"]).to_list()
    np.testing.assert_array_equal(np.concatenate([part.content for part in parts]), ak.flatten(columns["pt"]))


def test_the_default_identifier_does_not_apply_to_columns_of_another_kind(tmp_path):
    columns = {
        "run": np.array([[1, 2], [3, 4]], np.int32),
        "luminosityBlock": np.array([7, 8], np.uint32),
        "event": ak.Array([[1.0], [2.0, 3.0]]),
        "x": np.array([0.5, 1.5]),
    }
    write_tree(tmp_path / "a.root", columns)
    with DataReader(tmp_path / "a.root", normalise="none") as reader:
        assert reader.identifier == ("luminosityBlock",)
        assert reader.columns == ["nevent", "run_0", "run_1", "x", "event_0", "event_1"]
        chunk = only_chunk(reader)
        np.testing.assert_array_equal(chunk.x, [[1, 1, 2, 0.5, 1, np.nan], [2, 3, 4, 1.5, 2, 3]])
        assert chunk.ids["luminosityBlock"].tolist() == [7, 8]
    with pytest.raises(ConfigError, match=r"branch 'event' of .* is not one number per event: it is jagged"):
        DataReader(tmp_path / "a.root", identifier=["event"])


def test_the_default_identifier_does_not_apply_to_text(tmp_path):
    pq.write_table(pa.table({"event": ["first", "second"], "x": [0.5, 1.5]}), tmp_path / "a.parquet")
    with DataReader(tmp_path / "a.parquet") as reader:
        assert reader.identifier == ()
        assert reader.columns == ["x"]
        assert len(only_chunk(reader)) == 2


def test_the_default_identifier_does_not_apply_to_a_struct():
    with DataReader(case_file("evstruct.root")) as reader:
        assert reader.identifier == ()
        assert "x" in reader.columns
        assert sum(map(len, reader)) == 100
    with pytest.raises((BranchNotFound, ConfigError), match="branch 'event' "):
        DataReader(case_file("evstruct.root"), identifier=["event"])


def test_all_947_branches_of_a_nanoaod_file_are_features_or_identifiers():
    with uproot.open(real_file(NANOAOD)) as file, DataReader(real_file(NANOAOD)) as reader:
        assert len(file["Events"].keys()) == 947
        assert sorted([*reader.features, *reader.identifier]) == sorted(file["Events"].keys())


def test_minmax_of_a_nanoaod_file_agrees_with_the_formula_in_float64():
    path = real_file(NANOAOD)
    with DataReader(path, normalise="minmax", nan=-1) as reader, uproot.open(path) as file:
        (chunk,) = reader
        assert len(reader.layout.slots) > 100
        for slot in reader.layout.slots:
            array = file["Events"][slot.branch].array()
            columns = slice(slot.first, slot.first + slot.width)
            padded = array[:, None] if array.ndim == 1 else ak.pad_none(array, slot.width)
            values = ak.to_numpy(ak.fill_none(padded, np.nan)).astype(np.float64).reshape(len(array), slot.width)
            if np.isnan(values).all():
                assert not chunk.mask[:, columns].any(), slot.branch
                continue
            low, high = np.nanmin(values), np.nanmax(values)
            expected = (values - low) / (high - low) if high > low else np.where(np.isnan(values), np.nan, 0.0)
            spread = max(abs(low), abs(high)) / (high - low) if high > low else 1
            tolerance = 3e-7 * max(spread, 1)
            expected = np.nan_to_num(expected, nan=-1)
            np.testing.assert_allclose(chunk.x[:, columns], expected, atol=tolerance, err_msg=slot.branch)


@pytest.mark.parametrize("method", ["auto", "standard", "minmax"])
def test_real_events_become_finite_and_of_order_one(method):
    with DataReader(real_file(NANOAOD), normalise=method, nan=0) as reader:
        (chunk,) = reader
    assert np.isfinite(chunk.x).all()
    assert np.abs(chunk.x).max() < 200


@pytest.mark.parametrize("nevts", [1, 700, 1000])
def test_a_first_pass_over_some_events_ignores_others(tmp_path, nevts):
    columns = write_events(tmp_path / "a.root", 1000, clusters=3)
    with DataReader(tmp_path / "a.root", nevts=nevts) as reader:
        met, pt = reader.specs.branches["met"], reader.specs.branches["pt"]
    assert (met.count, met.maximum) == (nevts, columns["met"][:nevts].max().item())
    assert met.minimum == columns["met"][:nevts].min().item()
    assert pt.dim == ak.max(ak.num(columns["pt"][:nevts]))
    assert pt.count == ak.sum(ak.num(columns["pt"][:nevts]))


def test_specs_of_two_files_can_be_merged_in_either_order(tmp_path):
    for name, events in (("a", 300), ("b", 500)):
        write_events(tmp_path / f"{name}.root", events, seed=events)
    first, second = (DataReader(tmp_path / f"{name}.root").specs for name in "ab")
    both = first.merge(second)
    assert both == second.merge(first)
    assert both.events == 800
    assert [(file.entries, file.entries_read) for file in both.files] == [(300, 300), (500, 500)]
    assert Specs.from_json(both.to_json()) == both


def test_specs_of_a_fixed_size_branch_of_another_size_are_refused(tmp_path):
    for name, size in (("a", 3), ("b", 4)):
        write_tree(tmp_path / f"{name}.root", {"cov": np.ones((5, size))})
    with pytest.raises(SpecsMismatch, match="'cov' has 4 numbers, not 3"):
        DataReader(tmp_path / "b.root", specs=DataReader(tmp_path / "a.root").specs)


def test_branches_in_the_specs_can_be_excluded_or_not_selected(tmp_path):
    columns = write_events(tmp_path / "a.root", 100, x=np.arange(100.0))
    whole = DataReader(tmp_path / "a.root").specs
    for chosen in ({"exclude_branches": ["*pt"]}, {"selected_branches": ["met", "x"]}):
        with DataReader(tmp_path / "a.root", specs=whole, normalise="none", **chosen) as reader:
            assert reader.features == reader.columns == list(reader.specs.branches) == ["met", "x"]
            np.testing.assert_array_equal(only_chunk(reader).x[:, 0], columns["met"])
            np.testing.assert_array_equal(only_chunk(reader).x[:, 1], np.arange(100))
            assert reader.specs.files == whole.files
    with pytest.raises(ConfigError, match=r"no branch of .* is left"):
        DataReader(tmp_path / "a.root", specs=whole, exclude_branches=["*"])


def test_the_error_names_selected_branches_that_the_specs_lack(tmp_path):
    write_events(tmp_path / "a.root", 100)
    specs = DataReader(tmp_path / "a.root", exclude_branches=["met"]).specs
    with pytest.raises(SpecsMismatch, match=r"do not belong to .*: not in the specs: met$"):
        DataReader(tmp_path / "a.root", specs=specs, selected_branches=["met", "pt"])


def test_extra_branches_are_not_features_even_if_they_are_in_the_specs(tmp_path):
    write_events(tmp_path / "a.root", 100, is_signal=np.arange(100) % 2)
    specs = DataReader(tmp_path / "a.root").specs
    reader = DataReader(tmp_path / "a.root", specs=specs, extra=["is_signal"], identifier=["event"])
    assert "is_signal" in specs.branches
    assert reader.features == ["met", "npt", "pt"]


def test_a_method_for_a_missing_branch_is_refused_when_the_file_is_opened(tmp_path):
    write_events(tmp_path / "a.root", 100)
    with pytest.raises(BranchNotFound, match=r"'nptt' is not in the features") as raised:
        DataReader(tmp_path / "a.root", normalise="auto,nptt=none")
    assert raised.value.nearest[0] == "npt"


def test_a_branch_that_the_preprocessing_removes_cannot_be_selected_and_the_error_says_why(tmp_path):
    write_events(tmp_path / "a.root", 100)
    (tmp_path / "p.json").write_text(
        '{"define": {"ht": "sum(pt)"}, "flat_cut": {"met": {"cut": "met > 0", "remove": true}}}'
    )
    preproc = load_preproc(tmp_path / "p.json")
    for chosen in (["met"], ["pt", "m*"], ["/me.{1,2}/"]):
        with pytest.raises(BranchNotFound, match="cannot be selected: the preprocessing removes it"):
            DataReader(tmp_path / "a.root", preproc=preproc, selected_branches=chosen)
    with DataReader(tmp_path / "a.root", preproc=preproc, selected_branches=["ht", "*t"]) as reader:
        assert reader.features == ["ht", "npt", "pt"]


def test_an_empty_file_has_the_columns_of_its_specs(tmp_path):
    write_events(tmp_path / "full.root", 50)
    write_events(tmp_path / "empty.root", 0)
    with DataReader(tmp_path / "empty.root", specs=DataReader(tmp_path / "full.root").specs) as reader:
        assert reader.columns == ["met", "npt", "pt_0", "pt_1", "pt_2", "pt_3"]
        block = reader.read_block(0, 0)
        assert block.x.shape == block.mask.shape == (0, 6)


def test_raw_blocks_have_the_values_of_the_file_and_blocks_the_values_of_iteration(tmp_path):
    columns = write_events(tmp_path / "a.root", 100, clusters=3)
    with DataReader(tmp_path / "a.root", chunk_size=40) as reader:
        raw = reader.read_block(20, 70, raw=True)
        np.testing.assert_array_equal(raw.x[:, 0], columns["met"][20:70])
        np.testing.assert_array_equal(raw.mask.sum(axis=1) - 2, ak.num(columns["pt"])[20:70])
        assert raw.entries.tolist() == list(range(20, 70))
        x = np.concatenate([chunk.x for chunk in reader])
        np.testing.assert_array_equal(reader.read_block(20, 70).x, x[20:70])


def test_extra_columns_are_returned_and_are_not_features(tmp_path):
    weight = np.array([1.5, -2.0, 0.0])
    write_events(tmp_path / "a.root", 3, weight=weight, clusters=2)
    with DataReader(tmp_path / "a.root", extra=["weight"]) as reader:
        assert "weight" not in reader.columns
        (chunk,) = reader
        np.testing.assert_array_equal(chunk.extra["weight"], weight)
        assert reader.unique("weight").tolist() == [-2, 0, 1.5]


def test_truncated_values_are_counted_each_time_they_are_read(tmp_path):
    lists = ak.Array([[1.0], [1.0, 2.0, 3.0], [], [1.0, 2.0, 3.0, 4.0]])
    write_tree(tmp_path / "a.root", {"pt": lists})
    with DataReader(tmp_path / "a.root", selected_branches=["pt"], nevts=1) as short:
        specs = short.specs
    with DataReader(tmp_path / "a.root", specs=specs, normalise="none") as reader:
        (chunk,) = reader
        np.testing.assert_array_equal(chunk.x, np.array([[1], [1], [np.nan], [1]], np.float32))
        assert chunk.mask.tolist() == [[True], [True], [False], [True]]
        assert reader.truncated == {"pt": 2 + 3}
