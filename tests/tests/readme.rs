//! Every example of README.md, as it stands there: the configuration is a lab's, and each command is run in it.

use std::{
    collections::BTreeSet,
    env, fs,
    path::Path,
    process::{Command, Output},
};

use anyhow::{Context as _, Result, bail, ensure};
use mesh_tests::lab::{Lab, Mesh, Web, meshctl_path, meshd_path, output};
use serde_json::Value;

/// A fenced block: its language, the line of the file that it begins on, and its lines.
#[derive(Debug)]
struct Block {
    language: String,
    line: usize,
    lines: Vec<String>,
}

/// What the file says, by what is done with it.
#[derive(Debug, Default)]
struct Examples {
    configuration: String,
    /// What is typed on a host, with the line that it stands on.
    console: Vec<(usize, String, String)>,
    /// What a contributor types.
    shell: Vec<String>,
    /// Commands in the running text, between backquotes.
    inline: BTreeSet<String>,
}

fn readme() -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// The fenced blocks, and the text around them.
fn blocks(text: &str) -> Result<(Vec<Block>, String)> {
    let (mut blocks, mut around, mut open) = (Vec::new(), String::new(), None::<Block>);
    for (number, line) in (1..).zip(text.lines()) {
        match (line.trim_start().strip_prefix("```"), open.take()) {
            (Some(""), Some(block)) => blocks.push(block),
            (Some(language), None) => {
                open = Some(Block { language: language.to_owned(), line: number, lines: Vec::new() });
            }
            (Some(_), Some(block)) => bail!("line {number}: the block of line {} is not closed", block.line),
            (None, Some(mut block)) => {
                block.lines.push(line.to_owned());
                open = Some(block);
            }
            (None, None) => around = around + line + "\n",
        }
    }
    if let Some(block) = open {
        bail!("the block of line {} is not closed", block.line);
    }
    Ok((blocks, around))
}

/// Sorts all that is an example; what it does not know is an error, so that none can hide.
fn examples(text: &str) -> Result<Examples> {
    let (blocks, around) = blocks(text)?;
    let mut examples = Examples::default();
    let mut pictures = Vec::new();
    for block in blocks {
        match block.language.as_str() {
            "yaml" => {
                ensure!(
                    examples.configuration.is_empty(),
                    "line {}: a second configuration: which of them is the lab's?",
                    block.line
                );
                examples.configuration = block.lines.join("\n") + "\n";
            }
            "console" => {
                for (number, line) in (block.line + 1..).zip(&block.lines) {
                    let (host, command) = line
                        .split_once("$ ")
                        .with_context(|| format!("line {number} is not `HOST$ COMMAND`: {line}"))?;
                    examples.console.push((number, host.to_owned(), command.to_owned()));
                }
            }
            "sh" => examples.shell.extend(block.lines),
            "text" => pictures.extend(block.lines),
            language => bail!("line {}: no test knows what to do with `{language}`", block.line),
        }
    }
    // A picture may hold a command, if it is run elsewhere.
    for line in &pictures {
        if let Some(at) = line.find("curl ") {
            let command = line[at..].split("  ").next().unwrap_or_default();
            ensure!(
                examples.console.iter().any(|(_, _, run)| run == command),
                "the picture's `{command}` is no example"
            );
        }
    }
    let spans = around.split('`').skip(1).step_by(2).map(|span| span.replace('\n', " "));
    examples.inline = spans.filter(|span| span.contains(' ')).collect();
    Ok(examples)
}

/// The command with the names of namespaces as this lab has them: /run/netns is the whole machine's.
fn in_lab(lab: &Lab, command: &str) -> String {
    let words: Vec<_> = command.split(' ').collect();
    let mut mapped = Vec::new();
    for (index, word) in words.iter().enumerate() {
        let before = |steps: usize| index.checked_sub(steps).and_then(|at| words.get(at)).copied();
        let named = before(1) == Some("--netns")
            || (before(2) == Some("netns") && matches!(before(1), Some("add" | "exec" | "delete")));
        mapped.push(if named { lab.namespace_name(word) } else { (*word).to_owned() });
    }
    mapped.join(" ")
}

/// Checks that a command did what the text says that it does; most would print something else if it had not.
fn sensible(command: &str, text: &str) -> Result<()> {
    let words: Vec<_> = command.split_whitespace().collect();
    let has = |wanted: &[&str]| -> Result<()> {
        for wanted in wanted {
            ensure!(text.contains(wanted), "{wanted} is missing");
        }
        Ok(())
    };
    ensure!(!text.to_lowercase().contains("error"), "it speaks of an error");
    match words.as_slice() {
        ["ip", "netns", "add" | "delete", _] => ensure!(text.is_empty(), "ip says something"),
        ["curl", ..] | ["ip", "netns", "exec", _, "curl", ..] => {
            ensure!(text.starts_with("search.") && text.contains(" sees "), "no replica answered");
        }
        ["dig", "+short", ..] => has(&["10.0.9.11\n", "10.0.9.12\n", "10.0.9.13\n"])?,
        ["ping", ..] | ["ip", "netns", "exec", _, "ping", ..] => has(&["1 received", " 0% packet loss"])?,
        ["meshctl", "status", "--output", "json"] => {
            let status: Value = serde_json::from_str(text).context("it is no JSON")?;
            ensure!(status["problems"].as_array().is_some_and(Vec::is_empty), "there are problems");
        }
        ["meshctl", "status"] => has(&["n1", "192.0.2.1", "n2", "n3", "endpoint_tc"])?,
        ["meshctl", "services", "ls"] => has(&["search", "blue", "10.0.9.2", "9200", "rr"])?,
        ["meshctl", "backends", "ls", "search"] => {
            has(&["search.1", "10.0.9.11", "search.2", "n2", "search.3", "fd00:9::a00:90d"])?;
        }
        ["meshctl", "backends", "weight", "search", ..] => has(&["search.1 has the weight 3 in search"])?,
        ["meshctl", "backends", "drain", "search", "search.2", "--wait", ..] => {
            has(&["search.2 is drained: no flow is left"])?;
        }
        ["meshctl", "backends", "drain", "search", "search.2"] => has(&["search.2 drains: "])?,
        ["meshctl", "explain", ..] => has(&["delivered", "search.1", "enters the mesh", "Why"])?,
        ["meshctl", "flows", "ls"] => has(&["search.1", "192.0.2.101"])?,
        ["meshctl", "drops", "--all"] => {
            ensure!(text.lines().count() > 20, "there are more reasons to drop a packet");
        }
        ["meshctl", "attach", ..] => has(&["extra", "10.0.9."])?,
        ["meshctl", "endpoints", "ls"] => has(&["search.1", "search.2", "search.3", "extra"])?,
        ["meshctl", "detach", "extra"] => has(&["extra"])?,
        _ => bail!("the test does not know this command: say here what it should print"),
    }
    Ok(())
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn the_configuration_is_good_and_each_command_does_what_it_says() -> Result<()> {
    let examples = examples(&readme()?)?;
    ensure!(!examples.console.is_empty(), "there are no commands");
    Mesh::from_yaml(&examples.configuration)?.test(|lab| {
        let file = lab.directory().join("readme.yaml");
        fs::write(&file, &examples.configuration)?;
        let check = output(Command::new(meshd_path()?).arg("--check").arg("--config").arg(&file))?;
        ensure!(check.status.success(), "meshd --check: {}", said(&check));

        for endpoint in lab.mesh().endpoints.iter().filter(|endpoint| endpoint.service.is_some()) {
            let task = endpoint.task.as_ref().with_context(|| format!("{} has no netns", endpoint.name))?;
            lab.host(task).serve_http(&Web::on(9200))?;
        }
        for (number, host, command) in &examples.console {
            let output = lab.shell(host, &in_lab(lab, command))?;
            let text = said(&output);
            let shown = format!("line {number}: {host}$ {command}: {}\n{text}", output.status);
            ensure!(output.status.success(), "{shown}");
            // curl tells its progress where it is not asked to be silent.
            let answer = String::from_utf8_lossy(&output.stdout);
            sensible(command, &answer).context(shown)?;
        }
        Ok(())
    })
}

/// Whether a program takes the words of a command line.
fn takes(program: &mut Command, words: &[&str]) -> Result<()> {
    let told = output(program.args(words).arg("--help"))?;
    ensure!(told.status.success(), "`{}`: {}", words.join(" "), said(&told));
    // clap shows the help of the parent where a word is not a command but might be an argument.
    let usage = said(&told);
    let command = words.iter().take_while(|word| !word.starts_with('-')).copied().collect::<Vec<_>>();
    ensure!(
        usage.lines().any(|line| line.starts_with("Usage: ") && line.contains(&command.join(" "))),
        "`{}` is not understood: {usage}",
        words.join(" ")
    );
    Ok(())
}

#[test]
fn each_command_of_the_text_exists() -> Result<()> {
    let examples = examples(&readme()?)?;
    let commands = examples.shell.iter().map(|line| line.split(" #").next().unwrap_or_default());
    let commands: Vec<_> =
        commands.map(str::trim).chain(examples.inline.iter().map(String::as_str)).collect();
    let mut tasks = 0;
    for command in commands {
        let words: Vec<_> = command.split_whitespace().collect();
        match words.as_slice() {
            [] => {}
            ["cargo", "xtask", rest @ ..] => {
                let cargo = env::var_os("CARGO").context("cargo runs the tests")?;
                let mut cargo = Command::new(cargo);
                cargo.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).arg("xtask");
                takes(&mut cargo, rest)?;
                tasks += 1;
            }
            // The same as `meshctl --help`, which has no help of its own.
            ["meshctl", "help"] => takes(&mut Command::new(meshctl_path()?), &[])?,
            ["meshctl", rest @ ..] => takes(&mut Command::new(meshctl_path()?), rest)?,
            ["meshd", rest @ ..] => takes(&mut Command::new(meshd_path()?), rest)?,
            ["curl", ..] => bail!("`{command}` stands in the text and is not run: put it into a block"),
            _ if examples.shell.iter().any(|line| line.starts_with(command)) => {
                bail!("no test knows what to do with `{command}`")
            }
            // Words of a language, not of a command line.
            _ => {}
        }
    }
    ensure!(tasks >= 2, "the commands for the demo and the tests are missing");
    Ok(())
}

#[test]
fn an_example_that_is_not_understood_is_an_error() {
    for (text, says) in [
        ("```python\nprint()\n```\n", "line 1: no test knows what to do with `python`"),
        ("```\nmeshctl\n```\n", "line 1: no test knows what to do with ``"),
        ("a\n\n```console\nmeshctl\n```\n", "line 4 is not `HOST$ COMMAND`: meshctl"),
        ("```sh\ncargo\n", "the block of line 1 is not closed"),
        ("```yaml\na: 1\n```\n```yaml\nb: 1\n```\n", "line 4: a second configuration"),
        (
            "```text\n│ curl http://192.0.2.9   any node\n```\n",
            "the picture's `curl http://192.0.2.9` is no example",
        ),
    ] {
        let error = examples(text).map(|_| ()).unwrap_err().to_string();
        assert!(error.starts_with(says), "{text}: {error}");
    }
    assert!(sensible("meshctl unknown", "x").is_err());
    assert!(sensible("curl http://192.0.2.1:9200", "<html>").is_err());
    assert!(sensible("meshctl drops", "error: no").is_err());
}
