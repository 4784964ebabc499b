//! The tests of the whole system, under another kernel.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::Guest;
use crate::{build::Binaries, process, project};

/// The package of the whole-system tests.
const PACKAGE: &str = "mesh-tests";
/// Runs every program of a list with the other arguments, also after one failed.
const RUN_EACH: &str = r#"
suites=$1
shift
status=0
for suite in $suites; do "$suite" --test-threads=1 "$@" || status=1; done
exit $status
"#;

/// Programs of tests, built.
pub(crate) struct Suites(Vec<PathBuf>);

impl Suites {
    /// Builds these files of tests/tests, or all.
    pub(crate) fn build<N: AsRef<str>>(names: &[N]) -> Result<Self> {
        let mut cargo = process::command(project::cargo());
        cargo.current_dir(project::root());
        cargo.args(["test", "--package", PACKAGE, "--no-run", "--message-format=json-render-diagnostics"]);
        if names.is_empty() {
            cargo.args(["--test", "*"]);
        }
        for name in names {
            cargo.args(["--test", name.as_ref()]);
        }
        let shown = process::shown(&cargo);
        let output = cargo.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
        ensure!(output.status.success(), "`{shown}` failed ({})", output.status);
        let programs = programs(&String::from_utf8_lossy(&output.stdout));
        ensure!(!programs.is_empty(), "`{shown}` built no tests");
        Ok(Self(programs))
    }

    /// Runs them in a guest, those tests whose names hold one of the filters, and hands over each line that they print;
    /// returns 0 if all passed.
    pub(crate) fn run<F: AsRef<str>>(
        &self,
        mut guest: Guest,
        binaries: &Binaries,
        filters: &[F],
        line: impl FnMut(&str),
    ) -> Result<i32> {
        let text = |path: &Path| path.to_str().map(str::to_owned).context("a path is no text");
        let object = &binaries.ebpf.object;
        for (name, path) in
            [("MESHD", &binaries.meshd), ("MESHCTL", &binaries.meshctl), ("MESH_EBPF_OBJECT", object)]
        {
            guest = guest.environment(name, &text(path)?);
        }
        let mut suites = Vec::new();
        for suite in &self.0 {
            let suite = text(suite)?;
            if suite.contains(char::is_whitespace) {
                bail!("{suite} cannot be told to a guest: there is a space in the path");
            }
            suites.push(suite);
        }
        let suites = suites.join(" ");
        let mut words = vec!["sh", "-c", RUN_EACH, "sh", &suites];
        words.extend(filters.iter().map(AsRef::as_ref));
        guest.run_lines(&words, line)
    }
}

/// The programs that cargo's messages tell of.
fn programs(messages: &str) -> Vec<PathBuf> {
    let programs = messages.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        Some(PathBuf::from(message.get("executable")?.as_str()?))
    });
    programs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_tells_where_the_tests_are() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"mesh_tests"},"executable":null}
{"reason":"compiler-artifact","target":{"name":"vip"},"executable":"/target/debug/deps/vip-1"}
{"reason":"build-finished","success":true}
"#;
        assert_eq!(programs(messages), [PathBuf::from("/target/debug/deps/vip-1")]);
    }
}
