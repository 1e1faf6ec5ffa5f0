from __future__ import annotations

from bertwright.data.cache import cache_root, open_folder, publish_folder, scratch_folder


def publish(root, text, name="made"):
    with scratch_folder(root) as scratch:
        (scratch / "data.txt").write_text(text)
        publish_folder(scratch, root / name, {"text": text})


def test_published_folder_opens_and_scratch_is_gone(tmp_path):
    root = cache_root("things", tmp_path)
    publish(root, "one")
    meta = open_folder(root / "made")
    assert meta is not None
    assert meta["text"] == "one"
    assert [path.name for path in root.iterdir()] == ["made"]


def test_missing_folder_is_none(tmp_path):
    assert open_folder(tmp_path / "nowhere") is None


def test_a_sound_folder_stays(tmp_path):
    publish(tmp_path, "one")
    publish(tmp_path, "two")
    assert (tmp_path / "made" / "data.txt").read_text() == "one"


def test_damage_is_seen_and_replaced(tmp_path):
    for damage in ("twisted", "truncated", "deleted", "meta"):
        publish(tmp_path, "fresh", damage)
        data = tmp_path / damage / "data.txt"
        if damage == "twisted":
            data.write_text("frezh")
        elif damage == "truncated":
            data.write_text("fre")
        elif damage == "deleted":
            data.unlink()
        else:
            (tmp_path / damage / "meta.json").write_text("[1, ")
        assert open_folder(tmp_path / damage) is None
        publish(tmp_path, "fresh", damage)
        assert open_folder(tmp_path / damage) is not None


def test_a_failed_build_leaves_nothing(tmp_path):
    try:
        with scratch_folder(tmp_path) as scratch:
            (scratch / "half").write_text("x")
            raise RuntimeError("stopped")
    except RuntimeError:
        pass
    assert list(tmp_path.iterdir()) == []
