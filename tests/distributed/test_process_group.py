"""Where torchrun's ranks meet: only their user can get there, and nothing is left there by runs that have ended."""

import tempfile

from dlkit.distributed.process_group import meeting_place


def test_ranks_meet_where_only_their_user_can_enter_and_ended_runs_leave_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = meeting_place()
    assert folder.parent == tmp_path
    assert folder.stat().st_mode & 0o077 == 0
    (folder / "1@0.0-run").touch()  # of a process 1 that was made in 1970
    assert meeting_place() == folder
    assert not list(folder.iterdir())
