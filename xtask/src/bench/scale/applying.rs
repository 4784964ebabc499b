//! Meshes of many sizes, planned, written to the kernel, changed: what it takes in time and memory. The measurement is a test
//! of the agent's, optimised, since this program is built before the agent can be.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::super::{
    figure::{Figure, number},
    findings::{Column, Row, Table},
};
use crate::{process, progress, project};

const TEST: &str = "apply::scale::meshes_of_many_sizes_in_the_kernel";

/// What a mesh took.
#[derive(Deserialize)]
pub(super) struct Measured {
    services: u32,
    backends: u32,
    first: Steps,
    changes: Vec<Steps>,
    check: u64,
    slots: u64,
    maps: Vec<Memory>,
}

/// Nanoseconds of each step.
#[derive(Deserialize)]
struct Steps {
    plan: u64,
    lower: u64,
    compare: u64,
    write: u64,
    operations: u64,
}

/// The memory of a map, as the kernel counts it.
#[derive(Deserialize)]
pub(super) struct Memory {
    map: String,
    bytes: u64,
    entries: u32,
}

impl Steps {
    const NAMES: [&str; 5] = ["plan", "numbers and rings", "compare", "write", "whole"];

    fn all(&self) -> [u64; 5] {
        let Self { plan, lower, compare, write, .. } = *self;
        [plan, lower, compare, write, plan + lower + compare + write]
    }
}

impl Memory {
    /// Bytes of an entry, what the map itself takes shared out among all that it has room for.
    pub(super) fn of_entry(&self) -> f64 {
        self.bytes as f64 / f64::from(self.entries)
    }

    /// Bytes that one more entry takes, by what a smaller map of the kind takes.
    pub(super) fn of_one_more(&self, smaller: &Self) -> f64 {
        let entries = f64::from(self.entries) - f64::from(smaller.entries);
        (self.bytes as f64 - smaller.bytes as f64) / entries
    }
}

impl Measured {
    pub(super) fn name(&self) -> String {
        let each = self.backends / self.services.max(1);
        format!("{} × {each}", number(f64::from(self.services)))
    }

    /// The memory of a map.
    pub(super) fn memory(&self, map: &str) -> Result<&Memory> {
        self.maps.iter().find(|memory| memory.map == map).with_context(|| format!("there is no map {map}"))
    }
}

/// Has the test measure.
pub(super) fn measure() -> Result<Vec<Measured>> {
    let figures = project::target().join("bench").join("scale-applying.json");
    fs::create_dir_all(project::target().join("bench"))?;
    let mut cargo = process::command(project::cargo());
    cargo
        .current_dir(project::root())
        .args(["test", "--release", "--package", "mesh-userspace", "--lib", "--"])
        .args(["--ignored", "--exact", TEST])
        .env("MESH_SCALE_FIGURES", &figures);
    progress::step("Meshes of many sizes, planned and applied", cargo)?;
    let text = fs::read_to_string(&figures).with_context(|| format!("{TEST} wrote no figures"))?;
    serde_json::from_str(&text).with_context(|| format!("{} holds other figures", figures.display()))
}

/// What it takes to plan and apply the whole, and one backend's change.
pub(super) fn tables(measured: &[Measured]) -> Vec<Table> {
    let milliseconds = |title: &str| Column::new(title, "ms");
    let ms = |nanoseconds: u64| Duration::from_nanos(nanoseconds).as_secs_f64() * 1000.0;
    let whole = |measured: &Measured| {
        let steps = measured.first.all().map(|step| Some(Figure::exact(ms(step))));
        let counted =
            [measured.first.operations, measured.slots].map(|count| Some(Figure::exact(count as f64)));
        let check = Some(Figure::exact(ms(measured.check)));
        steps.into_iter().chain([check]).chain(counted).collect::<Vec<_>>()
    };
    let change = |measured: &Measured| {
        let step = |at: usize| {
            let rounds = measured.changes.iter().filter_map(|steps| steps.all().get(at).copied().map(ms));
            Figure::of(&rounds.collect::<Vec<_>>())
        };
        (0..Steps::NAMES.len()).map(step).collect::<Vec<_>>()
    };
    let rows = |cells: &dyn Fn(&Measured) -> Vec<Option<Figure>>| {
        measured.iter().map(|measured| Row { name: measured.name(), cells: cells(measured) }).collect()
    };
    let steps = || Steps::NAMES.map(milliseconds).into_iter();
    let rest = [milliseconds("check again"), Column::new("operations", ""), Column::new("slots", "")];
    vec![
        Table {
            name: "whole".to_owned(),
            title: "The whole mesh planned and written to empty maps".to_owned(),
            rows_are: "services × backends".to_owned(),
            columns: steps().chain(rest).collect(),
            rows: rows(&whole),
            is_drawn: true,
        },
        Table {
            name: "change".to_owned(),
            title: "One backend leaves or comes, planned and written".to_owned(),
            rows_are: "services × backends".to_owned(),
            columns: steps().collect(),
            rows: rows(&change),
            is_drawn: true,
        },
    ]
}

/// What the maps take of which the size depends on the mesh, and those that take most.
pub(super) fn memory_table(measured: &[Measured]) -> Table {
    /// In MiB: what takes less in each mesh is not worth a line.
    const LEAST: f64 = 0.1;
    let mebibytes = |memory: &Memory| memory.bytes as f64 / f64::from(1 << 20);
    let maps = measured.first().map(|measured| measured.maps.as_slice()).unwrap_or_default();
    let row = |map: &Memory| {
        let of = |measured: &Measured| measured.memory(&map.map).ok().map(mebibytes);
        let is_worth_it = measured.iter().filter_map(of).any(|size| size >= LEAST);
        let cells = measured.iter().map(|measured| of(measured).map(Figure::exact)).collect();
        is_worth_it.then(|| Row { name: map.map.clone(), cells })
    };
    let sum = |measured: &Measured| Some(Figure::exact(measured.maps.iter().map(mebibytes).sum()));
    let all = Row { name: "all maps".to_owned(), cells: measured.iter().map(sum).collect() };
    Table {
        name: "memory".to_owned(),
        title: "Memory of the kernel's maps, by services × backends".to_owned(),
        rows_are: "map".to_owned(),
        columns: measured.iter().map(|measured| Column::new(measured.name(), "MiB")).collect(),
        rows: maps.iter().filter_map(row).chain([all]).collect(),
        is_drawn: true,
    }
}
