"""The ledger: what one process of a session notes, the others know."""

from bakeoff.session.ledger import Ledger, Outcome


def test_another_process_of_the_session_knows_what_came_of_a_run():
    ours = Ledger()
    theirs = Ledger(str(ours.folder))
    theirs.note("ab", Outcome("made"))
    theirs.note("ac", Outcome("dead", "training", "out of memory"))
    assert ours.find("ab") == Outcome("made")
    assert ours.find("ac") == Outcome("dead", "training", "out of memory")
    assert (ours.count("made"), ours.count("reused"), ours.count("dead")) == (1, 0, 1)


def test_a_run_that_nobody_made_is_not_known():
    assert Ledger().find("ab") is None


def test_another_session_knows_nothing():
    first, second = Ledger(), Ledger()
    first.note("ab", Outcome("made"))
    assert second.find("ab") is None


def test_a_ledger_leaves_no_folder_behind():
    ledger = Ledger()
    folder = ledger.folder
    ledger.note("ab", Outcome("reused"))
    del ledger
    assert not folder.exists()
