"""The step of the workflow that posts a comment, run with a `gh` that only writes down what it was asked."""

import os
import subprocess
import sys

import pytest
import yaml

from bakeoff.shipped import ROOT
from bakeoff.starter import repository

GH = """#!{python}
import json, os, sys
with open("asked.jsonl", "a") as file:
    file.write(json.dumps([sys.argv[1:], os.environ.get("MARKER")]) + "\\n")
if "--paginate" in sys.argv:
    print(open("comments").read(), end="")
"""
FILES = {"own": repository.TEMPLATE / "bakeoff.yml", "ci": ROOT / ".github" / "workflows" / "gate.yml"}


@pytest.fixture(params=FILES)
def post(request, tmp_path):
    """Runs the step where `gh` lists the ids in `comments`: `requests = post("12\\n")`, each a list of words."""
    workflow = yaml.safe_load(FILES[request.param].read_text(encoding="utf-8"))
    step = workflow["jobs"]["gate"]["steps"][-1]
    assert step["env"]["FILE"] == f"reports/{request.param}/comment.md" and step["env"]["FILE"] in step["if"]
    assert "head.repo.full_name == github.repository" in step["if"]  # a fork's token can't write
    [upload] = [one for one in workflow["jobs"]["gate"]["steps"] if one.get("id") == "report"]
    assert step["env"]["PAGE"] == "${{ steps.report.outputs.artifact-url }}" and "upload-artifact" in upload["uses"]
    assert workflow["permissions"] == {"contents": "read", "pull-requests": "write"}
    (tmp_path / "gh").write_text(GH.format(python=sys.executable))
    (tmp_path / "gh").chmod(0o755)
    (tmp_path / "comment.md").write_text("<!-- bakeoff gate: own -->\n## Green\n")
    env = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "GITHUB_REPOSITORY": "me/repo",
           "NUMBER": "7", "FILE": "comment.md",
           "PAGE": "https://github.com/me/repo/actions/runs/5/artifacts/6"}  # fmt: skip

    def run(comments):
        (tmp_path / "comments").write_text(comments)
        (tmp_path / "asked.jsonl").unlink(missing_ok=True)
        subprocess.run(["bash", "-e", "-c", step["run"]], cwd=tmp_path, env=env, check=True)
        return [yaml.safe_load(line) for line in (tmp_path / "asked.jsonl").read_text().splitlines()]

    return run


@pytest.mark.skipif(os.name == "nt", reason="the workflow runs on Linux")
def test_the_first_push_writes_a_comment_with_the_page_and_later_ones_update_it(post, tmp_path):
    (listing, marker), (first, _) = post("")
    assert listing[:3] == ["api", "--paginate", "repos/me/repo/issues/7/comments"]
    assert marker == "<!-- bakeoff gate: own -->" and 'select(.user.login == "github-actions[bot]"' in listing[-1]
    assert first[2:] == ["--method", "POST", "repos/me/repo/issues/7/comments", "--field", "body=@comment.md"]
    assert (tmp_path / "comment.md").read_text().startswith("<!-- bakeoff gate: own -->\n## Green\n\n[The page ")
    assert "](https://github.com/me/repo/actions/runs/5/artifacts/6)\n" in (tmp_path / "comment.md").read_text()
    _, (later, _) = post("4321\n99\n")
    assert later[2:] == ["--method", "PATCH", "repos/me/repo/issues/comments/4321", "--field", "body=@comment.md"]
