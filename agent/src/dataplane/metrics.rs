//! Counters and occupancy for `/metrics`, read from the kernel when they are asked for.

use std::sync::{Arc, Weak};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::{DataPlane, DataPlaneError, Inner, occupancy};

#[derive(Debug)]
struct Metrics(Weak<Inner>);

impl DataPlane {
    /// Registers everything that the data plane counts.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(Metrics(Arc::downgrade(&self.inner))));
    }
}

/// Writes one counter family with one label.
fn counters<'a>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help, label): (&str, &str, &'static str),
    values: impl Iterator<Item = (&'a str, u64)>,
) -> std::fmt::Result {
    let kind = prometheus_client::metrics::MetricType::Counter;
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for (value, count) in values {
        let labels = [(label, value)];
        let metric = family.encode_family(&labels)?;
        ConstCounter::new(count).encode(metric)?;
    }
    Ok(())
}

fn gauges<'a>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help, label): (&str, &str, &'static str),
    values: impl Iterator<Item = (&'a str, i64)>,
) -> std::fmt::Result {
    let kind = prometheus_client::metrics::MetricType::Gauge;
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for (value, level) in values {
        let labels = [(label, value)];
        let metric = family.encode_family(&labels)?;
        ConstGauge::new(level).encode(metric)?;
    }
    Ok(())
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let Some(inner) = self.0.upgrade() else {
            return Ok(());
        };
        let plane = DataPlane { inner };
        counters(
            &mut encoder,
            (
                "waggle_dataplane_drops",
                "Packets dropped and calls refused, by reason",
                "reason",
            ),
            plane.drops().into_iter(),
        )?;
        let forwards = plane.forwards();
        counters(
            &mut encoder,
            (
                "waggle_dataplane_forwarded_packets",
                "Packets sent on by the data plane, by where to",
                "to",
            ),
            forwards.iter().map(|(kind, packets, _)| (*kind, *packets)),
        )?;
        counters(
            &mut encoder,
            (
                "waggle_dataplane_forwarded_bytes",
                "Bytes sent on by the data plane, by where to",
                "to",
            ),
            forwards.iter().map(|(kind, _, bytes)| (*kind, *bytes)),
        )?;
        counters(
            &mut encoder,
            (
                "waggle_dataplane_events",
                "Things that happened in the data plane and are no drop",
                "event",
            ),
            plane.events().into_iter(),
        )?;
        counters(
            &mut encoder,
            (
                "waggle_dataplane_closing",
                "Sockets to backends that are gone, by what became of them; and what stood in the way",
                "what",
            ),
            plane.inner.closing.counts.list().into_iter(),
        )?;
        tables(&mut encoder, &plane)?;
        let problems: Vec<_> = plane.inner.state().reached.problems().collect();
        gauges(
            &mut encoder,
            (
                "waggle_dataplane_node_problems",
                "What is wrong with other nodes' addresses and pod ranges, by kind",
                "problem",
            ),
            problems.into_iter(),
        )?;
        programs(&mut encoder, &plane)
    }
}

fn tables(encoder: &mut DescriptorEncoder<'_>, plane: &DataPlane) -> std::fmt::Result {
    let (fills, backends, problems, revision) = {
        let state = plane.inner.state();
        (
            occupancy::fills(&state),
            state.tables.planner().backends(),
            state.tables.problems,
            state.tables.revision,
        )
    };
    gauges(
        encoder,
        (
            "waggle_dataplane_map_entries",
            "Entries in use, by table",
            "map",
        ),
        fills.iter().map(|fill| (fill.table, fill.used as i64)),
    )?;
    gauges(
        encoder,
        (
            "waggle_dataplane_map_size",
            "Entries that the table can hold",
            "map",
        ),
        fills.iter().map(|fill| (fill.table, fill.size as i64)),
    )?;
    for (name, help, value) in [
        (
            "waggle_dataplane_backends",
            "Backends of all services",
            backends as i64,
        ),
        (
            "waggle_dataplane_applied_revision",
            "Revision up to which the cluster's services are in force",
            revision as i64,
        ),
    ] {
        let gauge = ConstGauge::new(value);
        gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
    }
    let problems = ConstCounter::new(problems);
    problems.encode(encoder.encode_descriptor(
        "waggle_dataplane_service_problems",
        "Service changes that could not be made",
        None,
        problems.metric_type(),
    )?)
}

/// How often a program ran, and for how long, while the kernel counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramRuns {
    pub name: String,
    pub runs: u64,
    pub nanoseconds: u64,
}

/// Has the kernel count runs and time of all BPF programs (5.8) until it is dropped; each run then takes some
/// tens of nanoseconds longer, a part of which is in the time that is counted.
#[derive(Debug)]
pub struct RunTimeStatistics {
    _switch: std::os::fd::OwnedFd,
}

impl RunTimeStatistics {
    /// # Errors
    /// When the kernel refuses.
    pub fn on() -> Result<Self, DataPlaneError> {
        let switch = aya::sys::enable_stats(aya::sys::Stats::RunTime).map_err(|error| {
            DataPlaneError::System {
                action: "turn on run-time statistics of BPF programs",
                source: error.io_error,
            }
        })?;
        Ok(Self { _switch: switch })
    }
}

impl DataPlane {
    /// What the kernel counted of each program since it was loaded.
    pub fn program_runs(&self) -> Vec<ProgramRuns> {
        self.inner
            .state()
            .objects
            .program_infos()
            .map(|(name, info)| ProgramRuns {
                name: name.to_owned(),
                runs: info.run_count(),
                nanoseconds: info.run_time().as_nanos() as u64,
            })
            .collect()
    }
}

fn programs(encoder: &mut DescriptorEncoder<'_>, plane: &DataPlane) -> std::fmt::Result {
    let infos = plane.program_runs();
    counters(
        encoder,
        (
            "waggle_dataplane_program_runs",
            "Runs, while kernel.bpf_stats_enabled is on",
            "program",
        ),
        infos.iter().map(|info| (info.name.as_str(), info.runs)),
    )?;
    counters(
        encoder,
        (
            "waggle_dataplane_program_run_nanoseconds",
            "Time spent, while kernel.bpf_stats_enabled is on",
            "program",
        ),
        infos
            .iter()
            .map(|info| (info.name.as_str(), info.nanoseconds)),
    )
}
