//! Files that are made to hurt: each is done with in little time, little memory and a small stack.

use std::{
    fmt::Write,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use mesh_userspace::{
    config,
    spec::{Faults, resolve},
    table::Table,
};

/// The longest text that is read, as in `config`.
const LONGEST: usize = 16 << 20;
/// Generous, as this is a debug build on a busy machine; what is quadratic takes far longer.
const LONGEST_TIME: Duration = Duration::from_secs(60);
/// Small, so that a recursion as deep as the text shows itself.
const STACK: usize = 256 << 10;
/// The most memory that the whole test may ever have held, in kB.
const MOST_MEMORY: u64 = 1 << 20;

fn check(text: impl Into<Vec<u8>>) -> Result<Table, Faults> {
    let text = text.into();
    let start = Instant::now();
    let checked = move || config::parse("hostile.yaml", &text).and_then(|loaded| resolve(&loaded.spec));
    let thread = thread::Builder::new().stack_size(STACK).spawn(checked).expect("a thread");
    let result = thread.join().expect("no panic");
    assert!(start.elapsed() < LONGEST_TIME, "it took {:?}", start.elapsed());
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(peak < MOST_MEMORY, "{peak} kB were held");
    if let Err(faults) = &result {
        assert!(faults.to_string().len() < 1 << 20, "nobody reads that much");
    }
    result
}

fn faults(text: impl Into<Vec<u8>>) -> Faults {
    check(text).expect_err("a fault")
}

fn first(text: impl Into<Vec<u8>>) -> String {
    faults(text).iter().next().expect("a fault").to_string()
}

fn repeated(unit: &str, length: usize) -> Vec<u8> {
    unit.repeat(length / unit.len()).into_bytes()
}

#[test]
fn one_thing_over_and_over() {
    // A small part of the longest text: enough to tell what is quadratic.
    let length = LONGEST / 32;
    let good = "nodes:\n  n1: {address: 192.0.2.1}\n";
    for unit in [
        "[",
        "{",
        "]",
        "}",
        "- ",
        "? ",
        ": ",
        "a: ",
        "{a: ",
        "[a, ",
        "a, ",
        "a ",
        "a\n",
        "a: b\n",
        "- a\n",
        "-\n",
        "&a ",
        "*a ",
        "!a ",
        "!!",
        "&a\n",
        "|\n",
        ">\n ",
        "\"",
        "'",
        "''",
        "\\",
        "\"\\",
        "#",
        "# \n",
        "%",
        "%A\n",
        "---\n",
        "...\n",
        "--- a\n",
        "\n",
        "\r",
        "\t",
        "\t\n",
        " ",
        ",",
        "[]",
        "{}",
        "[],",
        "[]: ",
        "{}: ",
        "{a}: ",
        "? a\n",
        "? a\n: b\n",
        "- - a\n",
        "<<: *a\n",
        "é",
        "\u{feff}",
        "\0",
        "\u{85}",
        "@",
        "`",
        "|",
        ">",
        "\"a\": \"b\"\n",
        "a:\n",
        "nodes:\n",
        "nodes: {\n",
        "nodes: \"\n",
        "networks: [\nnodes: {}}\n",
    ] {
        for prefix in ["", "nodes: {", "nodes: \"", good] {
            let start = Instant::now();
            let result = check([prefix.as_bytes(), &repeated(unit, length)].concat());
            assert!(result.is_err() || prefix == good, "{unit:?} after {prefix:?} is good");
            assert!(start.elapsed() < LONGEST_TIME / 3, "{unit:?} after {prefix:?}: {:?}", start.elapsed());
        }
    }
}

#[test]
fn depth() {
    assert!(first("[".repeat(1000)).contains("Brackets lie too deep in one another here"));
    let mut indented = String::new();
    for depth in 0..2000 {
        let _ = writeln!(indented, "{:depth$}a:", "");
    }
    assert!(faults(indented).to_string().contains(":33:33: Lists and mappings lie more than 32 deep"));
}

#[test]
fn aliases_are_never_followed() {
    let mut bomb = String::from("a0: &a0 [lol, lol]\n");
    for level in 1..100 {
        let _ = writeln!(bomb, "a{level}: &a{level} [{}]", vec![format!("*a{}", level - 1); 10].join(", "));
    }
    assert!(faults(bomb).to_string().contains("An alias (*) stands here"));
    assert!(faults("nodes: &n {n1: *n}\n").to_string().contains("An alias (*) stands here"));
    assert!(faults("nodes: *nowhere\n").to_string().contains("1:8: An alias (*) stands here"));
}

#[test]
fn huge_scalars() {
    let huge = "x".repeat(LONGEST / 4);
    for text in [
        huge.clone(),
        format!("nodes: {huge}"),
        format!("nodes: \"{huge}\""),
        format!("nodes: '{huge}"),
        format!("{huge}: {huge}"),
        format!("nodes: {{{huge}: {{address: 192.0.2.1}}}}"),
        format!("nodes: {{n1: {{address: {huge}}}}}"),
        format!("nodes: {{n1: {{address: 192.0.2.1, interface: {huge}}}}}"),
        format!("nodes: {{n1: {{address: 192.0.2.1, {huge}: 1}}}}"),
        format!("nodes: {{n1: {{address: 192.0.2.1}}}}\nnetworks: {{a: {{vni: {}}}}}", "9".repeat(1 << 20)),
        format!(
            "nodes: {{n1: {{address: 192.0.2.1}}}}\nservices: {{a: {{networks: [], ports: [\"{huge}\"]}}}}"
        ),
        format!("nodes: |\n  {huge}\n"),
    ] {
        faults(text);
    }
}

#[test]
fn bytes_that_are_no_text() {
    assert_eq!(
        first(*b"nodes:\n  n\xff1: {}\n"),
        "hostile.yaml:2:4: The byte 0xff is not UTF-8; save the file as UTF-8 text."
    );
    assert!(first(*b"nodes:\n  \xc3").contains("2:3: The byte 0xc3"));
    // UTF-16 with its mark.
    assert!(first(*b"\xff\xfen\0o\0").contains("1:1: The byte 0xff"));
    assert!(first(*b"nodes: a\0b").contains("1:9: The character U+0000"));
    // The mark of UTF-8 is none of the text's columns.
    assert!(first(*b"\xef\xbb\xbfnodes: 1").contains("1:8: The section nodes is \"1\""));
}

#[test]
fn what_the_longest_file_can_ask_for() {
    let node = "nodes: {n1: {address: 192.0.2.1}}\n";

    // The longest good file there is: endpoints whose addresses are all to be allocated.
    let mut endpoints = format!(
        "{node}networks: {{b: {{subnets: [10.0.0.0/8, \"fd00::/64\"]}}}}\nservices: {{s: {{networks: [b]}}}}\nendpoints:\n"
    );
    for number in 0..100_000 {
        let _ =
            writeln!(endpoints, "- {{name: e{number}, node: n1, network: b, service: s, netns: e{number}}}");
    }
    let table = check(endpoints).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(table.endpoints.len(), 100_000);

    // Names that lead nowhere, each like many others.
    let mut nowhere = "nodes:\n".to_owned();
    for number in 0..20_000 {
        let _ = writeln!(
            nowhere,
            " a-node-with-a-long-name-{number}: {{address: 10.{}.{}.1}}",
            number / 256,
            number % 256
        );
    }
    nowhere += "networks: {b: {subnets: [172.16.0.0/12]}}\nendpoints:\n";
    for number in 0..20_000 {
        let _ = writeln!(nowhere, "- {{name: e{number}, node: a-node-with-a-long-nam-{number}, network: b}}");
    }
    assert_eq!(faults(nowhere).count(), 20_000);

    // Unknown keys, repeated keys, repeated values.
    let keys: String = (0..200_000).map(|number| format!("k{number}: ,")).collect();
    assert_eq!(faults(format!("nodes: {{n1: {{address: 192.0.2.1, {keys}}}}}")).count(), 200_000);
    let interfaces: String = (0..200_000).map(|number| format!("i{number},")).collect();
    check(format!("{node}options: {{interfaces: [{interfaces}]}}")).expect("good");

    // Ranges of ports.
    let range = "\"1-65535:1-65535\",".repeat(200_000);
    assert!(faults(format!("{node}services: {{a: {{networks: [], ports: [{range}]}}}}")).count() >= 199_990);

    // Ports in mode host, which are held against each other node by node.
    let ports: String =
        (1..20_000).map(|port| format!("{{published: {port}, target: 1, mode: host}},")).collect();
    let mut hosts = format!(
        "{node}networks: {{b: {{subnets: [10.0.0.0/8]}}}}\nservices: {{s: {{networks: [b], ports: [{ports}]}}, \
         t: {{networks: [b], ports: [{ports}]}}}}\nendpoints:\n"
    );
    for number in 0..10_000 {
        let service = if number % 2 == 0 { "s" } else { "t" };
        let _ = writeln!(hosts, "- {{name: e{number}, node: n{number}, network: b, service: {service}}}");
    }
    faults(hosts);

    // A namespace on many networks; a network of many subnets; many networks.
    let mut networks = format!("{node}networks:\n");
    for number in 0..10_000 {
        let _ = writeln!(networks, " b{number}: {{}}");
    }
    networks += "endpoints:\n";
    for number in 0..10_000 {
        let _ = writeln!(networks, "- {{name: e{number}, node: n1, network: b{number}, netns: one}}");
    }
    check(networks).expect("good");
    let subnets: String =
        (0..60_000).map(|number| format!("10.{}.{}.0/24,", number / 256, number % 256)).collect();
    assert!(
        first(format!("{node}networks: {{b: {{subnets: [{subnets}]}}}}")).contains("more than 16 subnets")
    );
}

#[test]
fn files_that_are_none() {
    let told = |path: &str| config::check(Path::new(path)).expect_err("a fault").to_string();
    let missing = told("/nonexistent/mesh.yaml");
    assert!(missing.starts_with("/nonexistent/mesh.yaml:1:1: The file does not exist; "), "{missing}");
    assert!(told("/proc").starts_with("/proc:1:1: The file is a directory; "));
    assert!(told("/dev/null").contains("The file is empty"));
    assert!(told("/dev/zero").contains("longer than 16 MiB"));
}
