//! The programs that hold the checks: built once, found, and run.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::promises::{Check, Trials};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Suite {
    /// The library's own tests.
    Unit,
    It,
    Crash,
    /// What is logged.
    Logs,
    /// By the seed, in a release build.
    Simulate,
    /// Measures, in a release build.
    Backlog,
    /// Is killed by the crash tests; in a release build there are more trials to the minute.
    MapReduce,
}

impl Suite {
    /// What cargo calls it.
    fn target(self) -> &'static str {
        match self {
            Self::Unit => "chordal",
            Self::It => "it",
            Self::Crash => "crash",
            Self::Logs => "logs",
            Self::Simulate => "simulate",
            Self::Backlog => "backlog",
            Self::MapReduce => "map_reduce",
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Programs(HashMap<Suite, PathBuf>);

impl Programs {
    /// Builds those that are asked for.
    pub(crate) fn build(suites: &[Suite]) -> Result<Self, String> {
        let mut programs = Self::default();
        let has = |suite| suites.contains(&suite);
        let mut tests = vec!["test", "--no-run", "--package", "chordal"];
        for (suite, arguments) in [
            (Suite::Unit, &["--lib"][..]),
            (Suite::It, &["--test", "it"]),
            (Suite::Crash, &["--test", "crash"]),
            (Suite::Logs, &["--test", "logs"]),
        ] {
            if has(suite) {
                tests.extend(arguments);
            }
        }
        if tests.len() > 4 {
            programs.add(&tests, suites)?;
        }
        if has(Suite::Simulate) {
            programs.add(&["build", "--release", "--bin", "simulate"], suites)?;
        }
        if has(Suite::Backlog) {
            programs.add_example(Suite::Backlog)?;
        }
        if has(Suite::Crash) {
            // What it kills.
            programs.add_example(Suite::MapReduce)?;
        }
        Ok(programs)
    }

    fn add_example(&mut self, example: Suite) -> Result<(), String> {
        let build = ["build", "--release", "--package", "examples", "--example"];
        self.add(&[&build[..], &[example.target()]].concat(), &[example])
    }

    fn add(&mut self, arguments: &[&str], suites: &[Suite]) -> Result<(), String> {
        let said = cargo(&[arguments, &["--message-format=json"]].concat())?;
        for line in said.lines() {
            let Ok(message) = serde_json::from_str::<serde_json::Value>(line) else {
                continue;
            };
            let Some(path) = message["executable"].as_str() else {
                continue;
            };
            for suite in suites {
                if message["target"]["name"] == suite.target() {
                    self.0.insert(*suite, path.into());
                }
            }
        }
        Ok(())
    }

    pub(crate) fn path(&self, suite: Suite) -> Result<&Path, String> {
        let path = self.0.get(&suite).map(PathBuf::as_path);
        path.ok_or_else(|| format!("cargo has not built {suite:?}"))
    }

    /// Runs a check with so many trials, and with these variables.
    pub(crate) fn run(
        &self,
        check: &Check,
        trials: u64,
        variables: &[(&str, &str)],
    ) -> Result<Output, String> {
        let path = self.path(check.suite)?;
        let mut command = Command::new(path);
        command.args(check.tests);
        if check.suite != Suite::Simulate {
            command.arg("--nocapture");
        }
        match check.trials {
            Trials::Set(option, ..) if option.starts_with("--") => {
                command.args([option, &trials.to_string()]);
            }
            Trials::Set(variable, ..) => {
                command.env(variable, trials.to_string());
            }
            Trials::Fixed => {}
        }
        if check.suite == Suite::Crash {
            command.env("CHORDAL_CRASH_PROGRAM", self.path(Suite::MapReduce)?);
        }
        let output = command
            .envs(variables.iter().copied())
            .current_dir(root())
            .stdin(Stdio::null())
            .output();
        output.map_err(|error| format!("{}: {error}", path.display()))
    }
}

pub(crate) fn root() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().expect("the rig is a member of the workspace")
}

/// What it says on standard output; what it says of its progress is passed on.
fn cargo(arguments: &[&str]) -> Result<String, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(arguments)
        .current_dir(root())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cargo: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!("cargo {}: {}", arguments.join(" "), output.status)),
    }
}
