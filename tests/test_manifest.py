"""The list of an archive's images: every form of it, every refusal, and what a row costs."""

import csv
import json
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.house import ROOT
from tests.images import noise, write_ome_zarr, write_png, write_tiff
from tileloom.jobs.archive import load
from tileloom.jobs.manifest import COLUMNS, Manifest, Row, stem
from tileloom.tiling.errors import InputError

IDS = (
    st.text("abcXYZ0123456789._+=@-", min_size=1, max_size=20)
    .filter(lambda text: text[0].isalnum())
    .filter(lambda text: text[-1] != ".")
)
# What a cell may hold: anything but what stripping, encoding or a path's own grammar would change.
CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r:/"), max_size=12).map(str.strip)
PRIORITIES = st.none() | st.integers(-9, 9)


def manifest(folder, text, name="list.csv"):
    path = Path(folder) / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Manifest(str(path))


def refused(folder, text, name="list.csv"):
    with pytest.raises(InputError) as refusal:
        manifest(folder, text, name)
    said = str(refusal.value)
    assert said.startswith(str(Path(folder) / name))
    assert "\n" not in said
    return said.removeprefix(f"{folder}/")


# --- what is read ---


def test_a_csv_file_tells_all_columns(tmp_path):
    rows = manifest(
        tmp_path,
        "priority,input,id,mask,reference,task,noise\n"
        '2,a.tif,first,masks/a.png,/truth/a.tif,"inpaint,sr:2",0.05\n'
        ",sub/b.tif,,,,,\n",
    )
    assert len(rows) == 2
    assert rows[0] == Row(
        id="first",
        input=f"{tmp_path}/a.tif",
        where=f"{tmp_path}/list.csv, row 1",
        mask=f"{tmp_path}/masks/a.png",
        reference="/truth/a.tif",
        task="inpaint,sr:2",
        noise=0.05,
        priority=2,
    )
    assert rows[1] == Row(id="b", input=f"{tmp_path}/sub/b.tif", where=f"{tmp_path}/list.csv, row 2")


def test_json_lines_tell_the_same(tmp_path):
    lines = [
        {"input": "a.tif", "id": "first", "task": "inpaint,sr:2", "noise": 0.05, "mask": "m.png", "priority": 2},
        {"input": "sub/b.tif", "mask": None, "noise": None},
    ]
    rows = manifest(tmp_path, "\n\n".join(map(json.dumps, lines)), "list.jsonl")
    assert len(rows) == 2
    assert (rows[0].id, rows[0].task, rows[0].noise, rows[0].priority) == ("first", "inpaint,sr:2", 0.05, 2)
    assert rows[0].mask == f"{tmp_path}/m.png"
    assert rows[1] == Row(id="b", input=f"{tmp_path}/sub/b.tif", where=f"{tmp_path}/list.jsonl, row 2")


def test_a_folder_names_the_images_in_it_and_nothing_else(tmp_path):
    write_tiff(tmp_path / "b.TIF", noise(1))
    write_png(tmp_path / "a.png", noise(1))
    write_ome_zarr(tmp_path / "c.ome.zarr", noise(3))
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".hidden.tif").touch()
    (tmp_path / "further").mkdir()
    rows = Manifest(str(tmp_path))
    assert [rows[number].id for number in range(len(rows))] == ["a", "b", "c.ome"]
    assert rows[2].input == f"{tmp_path}/c.ome.zarr"


def test_a_pattern_names_what_it_matches_in_order(tmp_path):
    for name in ("s2/b.tif", "s1/a.tif", "s1/deep/c.tif", "s1/a.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert ids(Manifest(f"{tmp_path}/*/*.tif")) == ["a", "b"]
    assert ids(Manifest(f"{tmp_path}/**/*.tif")) == ["a", "c", "b"]


def test_a_folder_with_brackets_in_its_name_is_a_folder(tmp_path):
    folder = tmp_path / "scans [1924]"
    folder.mkdir()
    (folder / "a.tif").touch()
    assert ids(Manifest(str(folder))) == ["a"]
    assert len(manifest(folder, "input\na.tif\n")) == 1


def ids(rows):
    return [rows[number].id for number in range(len(rows))]


def test_paths_start_from_the_manifests_folder_and_addresses_stay(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.chdir("/")
    rows = manifest(tmp_path, "input\n../up.tif\n~/own.tif\n/abs.tif\ns3://bucket/far.tif\n./a/../here.tif\n")
    assert [rows[number].input for number in range(len(rows))] == [
        f"{tmp_path.parent}/up.tif",
        "/home/someone/own.tif",
        "/abs.tif",
        "s3://bucket/far.tif",
        f"{tmp_path}/here.tif",
    ]


def test_a_relative_manifest_is_the_same(tmp_path, monkeypatch):
    absolute = manifest(tmp_path, "input\na.tif\n")[0].input
    monkeypatch.chdir(tmp_path)
    assert Manifest("list.csv")[0].input == absolute
    (tmp_path / "a.tif").touch()
    assert Manifest("*.tif")[0].input == absolute


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("a.tif", "a"),
        ("s3://b/scenes/a.ome.tif", "a.ome"),
        ("/x/scene.zarr/", "scene"),
        ("plain", "plain"),
        (".tif", ".tif"),
    ],
)
def test_an_image_is_named_by_its_file(file, name):
    assert stem(file) == name


def test_quotes_commas_and_newlines_stay_within_their_value(tmp_path):
    rows = manifest(tmp_path, 'id,input,task\nodd,"a, ""b""\nc.tif",sr:2\nplain,d.tif,"inpaint,sr:4"\n')
    assert rows[0].input == f'{tmp_path}/a, "b"\nc.tif'
    assert (rows[1].id, rows[1].task) == ("plain", "inpaint,sr:4")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", ["", "end"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("name", ["list.csv", "list.jsonl"])
def test_marks_line_ends_and_empty_lines_change_nothing(tmp_path, name, start, end, last):
    lines = ["input,id", "", "a.tif,one", "", "", "b.tif,two"]
    if name == "list.jsonl":
        lines = ["", '{"input": "a.tif", "id": "one"}', "", '{"input": "b.tif", "id": "two"}']
    rows = manifest(tmp_path, start + end.join(lines) + (end if last else ""), name)
    assert [(row.id, row.input) for row in (rows[1], rows[0])] == [
        ("two", f"{tmp_path}/b.tif"),
        ("one", f"{tmp_path}/a.tif"),
    ]


@given(rows=st.dictionaries(IDS, st.tuples(CELLS, CELLS, PRIORITIES), min_size=1, max_size=12), data=st.data())
@pytest.mark.parametrize("name", ["list.csv", "list.jsonl"])
def test_rows_that_are_read_again_are_those_that_were_read(tmp_path_factory, name, rows, data):
    folder = tmp_path_factory.mktemp("rows")
    with (folder / name).open("w", newline="", encoding="utf-8") as file:
        if name == "list.csv":
            csv.writer(file).writerows([["id", "input", "task", "priority"]])
        for image, (file_name, task, priority) in rows.items():
            cells = {"id": image, "input": f"f/{file_name}", "task": task, "priority": priority}
            if name == "list.csv":
                csv.writer(file).writerow(cells.values())
            else:
                file.write(json.dumps(cells, ensure_ascii=False) + "\n")
    found = Manifest(str(folder / name))
    assert len(found) == len(rows)
    order = data.draw(st.permutations(range(len(rows))))
    told = list(rows.items())
    for number in [*order, *order]:
        image, (file_name, task, priority) = told[number]
        row = found[number]
        assert (row.id, row.task, row.priority) == (image, task or None, priority or 0)
        assert Path(row.input).parts[: len(folder.parts)] == folder.parts
        assert found.number(image) == number
    assert found.number("nobody") is None
    first = list(found.order())
    assert sorted(first) == list(range(len(rows)))
    assert first == sorted(range(len(rows)), key=lambda number: (-(told[number][1][2] or 0), number))


def test_images_of_high_priority_go_first_and_the_others_as_they_stand(tmp_path):
    rows = manifest(tmp_path, "id,input,priority\na,x,\nb,x,5\nc,x,-1\nd,x,5\ne,x,0\n")
    assert [rows[int(number)].id for number in rows.order()] == ["b", "d", "a", "e", "c"]
    assert rows.prefers
    assert rows.priority(1) == 5
    assert not manifest(tmp_path, "id,input,priority\na,x,3\nb,x,3\n").prefers


def test_a_digest_tells_what_decides_the_result_and_nothing_else(tmp_path):
    base = Row(id="a", input="/a.tif", where="here")
    same = Row(id="a", input="/a.tif", where="there", priority=3, reference="/truth.tif")
    others = [
        Row(id="b", input="/a.tif", where="here"),
        Row(id="a", input="/b.tif", where="here"),
        Row(id="a", input="/a.tif", where="here", mask="/m.png"),
        Row(id="a", input="/a.tif", where="here", task="sr:2"),
        Row(id="a", input="/a.tif", where="here", noise=0.0),
    ]
    assert base.digest() == same.digest()
    assert len({row.digest() for row in [base, *others]}) == 6


# --- what is refused ---


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "input,maks\na.tif,\nb.tif,m.png\n",
            "list.csv, row 2: 'maks' is no column of a manifest; the columns are",
        ),
        ("input\n\na.tif\nx/a.tif\n", "list.csv, row 2: row 1 has the id a already: give each image one of its own"),
        ("id,input\na,a.tif\nb,\n", "list.csv, row 2: input is missing: give the path of an image"),
        ("id,input\n../x,a.tif\n", "list.csv, row 1: the id '../x' cannot name a folder: give it one of"),
        ("id,input\na/b,a.tif\n", "list.csv, row 1: the id 'a/b' cannot name"),
        ("id,input\n..,a.tif\n", "list.csv, row 1: the id '..' cannot name"),
        ("id,input\n.tileloom,a.tif\n", "list.csv, row 1: the id '.tileloom' cannot name"),
        ('id,input\n"a\nb",a.tif\n', "list.csv, row 1: the id 'a\\nb' cannot name"),
        ("id,input\n-rf,a.tif\n", "list.csv, row 1: the id '-rf' cannot name"),
        ("id,input\na.,a.tif\n", "list.csv, row 1: the id 'a.' cannot name"),
        (f"id,input\n{'a' * 201},a.tif\n", "cannot name a folder"),
        ("input\nBürger.tif\n", "list.csv, row 1: the id 'Bürger' cannot name a folder"),
        ("input,noise\na.tif\n", "list.csv, row 1: it has 1 values for 2 columns"),
        ("input,noise\na.tif,0.1\nb,c.tif,0.1\n", "list.csv, row 2: it has 3 values for 2 columns"),
        ("input,noise\na.tif,much\n", "list.csv, row 1: noise must be a number, not 'much'"),
        ("input,priority\na.tif,1.5\n", "list.csv, row 1: priority must be a whole number, not '1.5'"),
        ("input,priority\na.tif,99999999999999999999\n", "list.csv, row 1: priority must be from -1000000000 to"),
        ('input\n"a.tif\n', "list.csv, row 1: it is no line of a CSV file: unexpected end of data"),
        ("input\na.tif\rb.tif\n", "list.csv, row 1: it is no line of a CSV file: new-line character"),
        (b"input\na.tif\n\xff\xfe.tif\n", "list.csv, row 2: it is no text: write the manifest in UTF-8"),
        ("input\n".encode("utf-16"), "list.csv, its first line: it is no text: write the manifest in UTF-8"),
        ("inp\rut\na.tif\n", "list.csv, its first line: it is no line of a CSV file"),
        ("id;input\na;a.tif\n", "list.csv, its first line: it names no column input; the columns, with commas between"),
        ("input,id,input\na,b,c\n", "list.csv, its first line: it names the column input twice: drop one of them"),
        ("", "list.csv, its first line: it names no column input"),
        ("input\n\n", "list.csv names no image: add a row for each"),
    ],
)
def test_a_wrong_csv_file_is_refused_with_its_row(tmp_path, text, says):
    assert says in refused(tmp_path, text)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{input: a.tif}", 'row 2: it is no JSON object, such as {"input": "scene.tif"}'),
        ('["a.tif"]', "row 2: it is no JSON object"),
        ("[" * 100_000, "row 2: it is no JSON object"),
        ('{"input": "b.tif"', "row 2: it is no JSON object"),
        ('{"input": "b.tif", "input": "c.tif"}', "row 2: it gives a column twice: drop one of them"),
        ('{"input": 7}', "row 2: input must be a text, not 7"),
        ('{"input": "b.tif", "id": 7}', "row 2: id must be a text, not 7"),
        ('{"input": "b.tif", "task": ["inpaint", "sr:2"]}', "row 2: task must be a text"),
        ('{"input": "b.tif", "noise": true}', "row 2: noise must be a number, not True"),
        ('{"input": "b.tif", "priority": 1.5}', "row 2: priority must be a whole number, not 1.5"),
        ('{"input": "b.tif", "prio": 1}', "row 2: 'prio' is no column of a manifest"),
        ("{}", "row 2: input is missing"),
        ('{"input": "a.png"}', "row 2: row 1 has the id a already"),
    ],
)
def test_wrong_json_lines_are_refused_with_their_row(tmp_path, line, says):
    assert says in refused(tmp_path, f'{{"input": "a.tif"}}\n{line}\n', "list.jsonl")


def test_json_that_is_empty_is_a_row_without_an_input(tmp_path):
    assert "list.jsonl names no image" in refused(tmp_path, "\n\n", "list.jsonl")


def test_a_list_that_names_no_image_or_is_of_no_kind_is_refused(tmp_path):
    for name in (tmp_path, f"{tmp_path}/*.tif"):
        with pytest.raises(InputError, match=r"names no image: add a row for each, or a pattern that some"):
            Manifest(str(name))
    assert "list.txt is no manifest: give a .csv or .jsonl file, a folder" in refused(tmp_path, "input\n", "list.txt")


def test_a_manifest_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"gone\.csv cannot be read: No such file or directory"):
        Manifest(f"{tmp_path}/gone.csv")
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    with pytest.raises(InputError, match=r"loop\.csv cannot be read: Too many levels of symbolic links"):
        Manifest(f"{tmp_path}/loop.csv")


@pytest.mark.parametrize("after", ["input\nother.tif\nb.tif\n", "input\n", "input\n\xff\n", 'input\n"\n'])
def test_a_manifest_that_is_written_over_while_it_is_read_is_refused(tmp_path, after):
    rows = manifest(tmp_path, "input\na.tif\nb.tif\n")
    (tmp_path / "list.csv").write_bytes(after.encode("latin-1"))
    with pytest.raises(InputError, match=r"list\.csv was changed while it was in use, at row 1: run the same command"):
        rows[0]


def test_a_manifest_may_be_replaced_or_added_to_while_it_is_read(tmp_path):
    rows = manifest(tmp_path, "input\na.tif\nb.tif\n")
    with (tmp_path / "list.csv").open("a") as file:
        file.write("c.tif\n")
    assert ids(rows) == ["a", "b"]
    (tmp_path / "new.csv").write_text("input\nother.tif\n")
    (tmp_path / "new.csv").rename(tmp_path / "list.csv")
    assert ids(rows) == ["a", "b"]


# --- what it costs ---


def test_a_row_costs_a_few_bytes(tmp_path):
    count = 20_000
    path = tmp_path / "list.csv"
    path.write_text("id,input,priority\n" + "".join(f"scene-{n:06d},far/away/{n}.tif,{n % 3}\n" for n in range(count)))
    tracemalloc.start()
    try:
        rows = Manifest(str(path))
        opened, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for number in range(0, count, 1000):
            assert rows[number].id == f"scene-{number:06d}"
            assert rows.number(f"scene-{number:06d}") == number
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(rows) == count
    assert opened < 64 * count
    assert most - opened < 4 * count
    np.testing.assert_array_equal(rows.order()[:2], [2, 5])


# --- its page ---


def test_the_page_explains_every_column_and_an_archive_like_its_own_can_be_run(tmp_path):
    whole = (ROOT / "docs" / "job-file.md").read_text(encoding="utf-8")
    page = whole.partition("## Archives")[2].partition("## Keys")[0]
    assert tuple(re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE)) == COLUMNS
    (job,) = re.findall(r"^```yaml\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "job.yaml").write_text(job)
    (tmp_path / "list.csv").write_text(",".join(COLUMNS) + "\none,one.tif" + "," * (len(COLUMNS) - 2) + "\n")
    found = load(tmp_path / "job.yaml")
    assert found.job_of(Manifest(found.manifest)[0]).output == f"{tmp_path}/restored/one.zarr"
