//! `cargo xtask bench dns`: how many questions for names one core answers.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use mesh_tests::lab::{Lab, Mesh, remains, run};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use super::{
    PREFIX,
    figure::Figure,
    findings::{Column, Findings, Row, Table, Target},
    machine::Machine,
    watch::Watch,
};

/// Questions in a second that must be answered, each of them.
const RATE: u32 = 10_000;

/// The share of them that must have been asked: dnsperf comes near to the rate that it is given.
const NEARLY: f64 = 0.99;

/// Questions that may be under way: at the rate, as many as are asked in 100 ms; otherwise dnsperf's usual.
const UNDER_WAY: [u32; 2] = [1000, 100];

/// The processor of the daemon; whoever asks has another.
const DAEMONS: usize = 0;

/// What `bench dns` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Seconds of each measurement
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// How often each is repeated
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: u32,
}

/// What is asked, as dnsperf reads it.
const QUESTIONS: [(&str, &str); 4] = [
    ("a service's virtual IP", "search A\nsearch AAAA\n"),
    ("a service of ten tasks, by their addresses", "pool A\n"),
    ("a task's name, and an address's", "pool.7 A\n17.9.0.10.in-addr.arpa PTR\n"),
    ("a name that is not there", "nobody A\n"),
];

/// What dnsperf saw.
#[derive(Debug, PartialEq)]
struct Asked {
    sent: f64,
    lost: f64,
    /// How many of these had not even found room where they are read.
    overflown: f64,
    each_second: f64,
    /// The average time to an answer, in microseconds.
    latency: f64,
}

/// Several rounds of one kind of question.
#[derive(Default)]
struct Measured {
    /// At [`RATE`], how many were answered in a second, and how many were lost.
    answered: Vec<f64>,
    lost: Vec<f64>,
    overflown: Vec<f64>,
    latency: Vec<f64>,
    /// Microseconds of the answering thread for each question.
    work: Vec<f64>,
    /// As fast as it goes.
    most: Vec<f64>,
}

/// Measures in a lab of one node.
pub(super) fn measure(arguments: &Arguments) -> Result<(Findings, Result<()>)> {
    let watch = Watch::new("dns");
    watch.now("building the lab");
    let mut lab = mesh().up(PREFIX)?;
    let measured = measure_all(&mut lab, arguments, &watch);
    if measured.is_err() {
        lab.print_logs();
    }
    let measured = measured?;
    drop((watch, lab));
    let gone = remains(PREFIX)?;
    ensure!(gone.is_empty(), "not everything was cleaned up: {}", gone.join(", "));
    let targets = measured.iter().flat_map(|(what, measured)| {
        let lost = Figure::exact(measured.lost.iter().sum());
        let answered = Figure::of(&measured.answered);
        let lost =
            Target::at_most(&format!("{what}: lost at {RATE} questions a second"), 0.0, "questions", lost);
        // Whoever asks may itself be too slow to ask so often: then nothing is shown.
        let answered = answered.map(|answered| {
            Target::at_least(&format!("{what}: answered"), f64::from(RATE) * NEARLY, "/s", answered)
        });
        std::iter::once(lost).chain(answered)
    });
    let targets: Vec<Target> = targets.collect();
    let missed = targets.iter().find(|target| !target.is_met);
    let verdict = missed.map_or(Ok(()), |missed| Err(anyhow::anyhow!("{} was missed", missed.what)));
    let columns = vec![
        Column::new("answered at full speed", "/s"),
        Column::new(format!("answered when asked {RATE}/s"), "/s"),
        Column::new("lost of these", ""),
        Column::new("for want of room at the gateway", ""),
        Column::new(format!("time to an answer at {RATE}/s"), "µs"),
        Column::new(format!("work of an answer at {RATE}/s"), "µs"),
    ];
    let row = |(what, measured): &(&str, Measured)| Row {
        name: (*what).to_owned(),
        cells: vec![
            Figure::of(&measured.most),
            Figure::of(&measured.answered),
            Some(Figure::exact(measured.lost.iter().sum())),
            Some(Figure::exact(measured.overflown.iter().sum())),
            Figure::of(&measured.latency),
            Figure::of(&measured.work),
        ],
    };
    let findings = Findings {
        suite: "dns".to_owned(),
        title: "Questions for names".to_owned(),
        method: vec![format!(
            "A task asks the gateway of its network by UDP with dnsperf: {} s at {RATE} questions a second with up to {} under \
             way, and {} s as fast as answers come with {} under way, from ten sockets whose buffers take 200 KiB. meshd, all of its threads, has one processor; dnsperf has the others. \
             The work is the time on the processor of the one thread that answers, system calls included. Losses are of all rounds \
             together.",
            arguments.seconds, UNDER_WAY[0], arguments.seconds, UNDER_WAY[1]
        )],
        command: "cargo xtask bench dns".to_owned(),
        machine: Machine::this(),
        took_seconds: 0.0,
        tables: vec![Table {
            name: "rate".to_owned(),
            title: "Questions that one core answers".to_owned(),
            rows_are: "question".to_owned(),
            columns,
            rows: measured.iter().map(row).collect(),
            is_drawn: true,
        }],
        targets,
        remarks: vec![],
    };
    Ok((findings, verdict))
}

fn mesh() -> Mesh {
    let mesh = Mesh::new(1)
        .network("blue", 4097, &["10.0.9.0/24", "fd00:9::/64"])
        .service("search", "blue", "10.0.9.2", "mh", &[])
        .service("pool", "blue", "10.0.9.3", "mh", &[])
        .by_tasks()
        .task("caller", "n1", "blue", "10.0.9.99");
    (1..=10).fold(mesh, |mesh, number| {
        mesh.backend("pool", &format!("pool.{number}"), "n1", "blue", &format!("10.0.9.{}", 10 + number))
    })
}

fn measure_all(lab: &mut Lab, arguments: &Arguments, watch: &Watch) -> Result<Vec<(&'static str, Measured)>> {
    let daemon = lab.node_mut("n1").daemon()?.id();
    keep_on(daemon, DAEMONS)?;
    let mut all = Vec::new();
    for (what, questions) in QUESTIONS {
        let file = lab.directory().join("questions.txt");
        fs::write(&file, questions)?;
        let mut measured = Measured::default();
        for round in 1..=arguments.rounds {
            watch.now(&format!("{what}, round {round} of {}", arguments.rounds));
            let before = worked(daemon)?;
            let asked = ask(lab, &file, arguments.seconds, Some(RATE))?;
            measured.work.push((worked(daemon)? - before) / asked.sent);
            measured.answered.push(asked.each_second);
            measured.lost.push(asked.lost);
            measured.overflown.push(asked.overflown);
            measured.latency.push(asked.latency);
            measured.most.push(ask(lab, &file, arguments.seconds, None)?.each_second);
        }
        all.push((what, measured));
    }
    Ok(all)
}

/// Asks from the task, at a rate or as fast as it goes.
fn ask(lab: &Lab, questions: &Path, seconds: u32, rate: Option<u32>) -> Result<Asked> {
    let [at_rate, at_most] = UNDER_WAY;
    let rate = rate.map_or_else(|| format!(" -q {at_most}"), |rate| format!(" -q {at_rate} -Q {rate}"));
    let others = std::thread::available_parallelism()?.get().saturating_sub(1).max(1);
    let questions = questions.display();
    let words = format!(
        "taskset -c 1-{others} dnsperf -s 10.0.9.1 -d {questions} -l {seconds} -t 2 -c 10 -b 200{rate}"
    );
    let before = overflown(lab)?;
    let text = lab.host("caller").namespace.exec(&words)?;
    let overflown = overflown(lab)? - before;
    let asked = seen(&text).map(|asked| Asked { overflown, ..asked });
    asked.with_context(|| format!("dnsperf said something else than usual:\n{text}"))
}

/// Questions that found no room in the buffer of the gateway's socket.
fn overflown(lab: &Lab) -> Result<f64> {
    let gateway = lab.node("n1").run_directory().join("netns/blue");
    let text = run(Command::new("nsenter").arg(format!("--net={}", gateway.display())).args(SNMP))?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = lines.next().zip(lines.next()).context("the kernel counts no datagrams")?;
    let mut fields = names.split_whitespace().zip(values.split_whitespace());
    let (_, count) =
        fields.find(|(name, _)| *name == "RcvbufErrors").context("it does not count what overflows")?;
    Ok(count.parse()?)
}

/// The kernel's counters of the namespace that it runs in.
const SNMP: [&str; 2] = ["cat", "/proc/net/snmp"];

fn seen(text: &str) -> Option<Asked> {
    let number = |what: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(what))?;
        line.trim_start_matches(':').split_whitespace().next()?.parse::<f64>().ok()
    };
    Some(Asked {
        sent: number("Queries sent")?,
        lost: number("Queries lost")?,
        overflown: 0.0,
        each_second: number("Queries per second")?,
        latency: number("Average Latency (s)")? * 1e6,
    })
}

/// Keeps a process on one processor, whatever threads it has.
fn keep_on(process: u32, processor: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(processor)?;
    for thread in threads(process)? {
        sched_setaffinity(Pid::from_raw(thread), &set).context("cannot keep meshd on one processor")?;
    }
    Ok(())
}

fn threads(process: u32) -> Result<Vec<i32>> {
    let directory = format!("/proc/{process}/task");
    let entries = fs::read_dir(&directory).with_context(|| format!("cannot list {directory}"))?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

/// Microseconds that the thread which answers has been on a processor.
fn worked(process: u32) -> Result<f64> {
    let about = |thread: &i32| format!("/proc/{process}/task/{thread}");
    let is_it = |thread: &i32| {
        fs::read_to_string(format!("{}/comm", about(thread))).is_ok_and(|name| name.trim() == "dns")
    };
    let thread = threads(process)?.into_iter().find(is_it).context("meshd has no thread that answers")?;
    let text = fs::read_to_string(format!("{}/schedstat", about(&thread)))?;
    let nanoseconds: f64 = text.split_whitespace().next().context("its schedstat is empty")?.parse()?;
    Ok(nanoseconds / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dnsperf_says_is_read() {
        let text = "Statistics:\n\n  Queries sent:         99998\n  Queries completed:    99990 (99.99%)\n  \
                    Queries lost:         8 (0.01%)\n\n  Run time (s):         10.000125\n  \
                    Queries per second:   9998.875014\n\n  Average Latency (s):  0.000500 (min 0.000035, max 0.01)\n";
        let expected =
            Asked { sent: 99_998.0, lost: 8.0, overflown: 0.0, each_second: 9_998.875_014, latency: 500.0 };
        assert_eq!(seen(text), Some(expected));
        assert_eq!(seen("nothing"), None);
    }
}
