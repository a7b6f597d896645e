//! Carries out plans on the maps, and remembers when, so that what was retired rests before it is reused.

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use agent_ebpf::address::Address;
use agent_ebpf::layout::{
    Config, MAX_SLOTS, MaglevBlock, MaglevKey, ServiceKey, ServiceValue, Slot,
};

use super::error::DataPlaneError;
use super::objects::Objects;
use super::plan::{Fixed, Found, Gone, HostPort, Limits, Operation, Plan, Planner, Problem, Range};
use super::syscall::Scan;
use super::wire::Wire;

mod writer;

use self::writer::Writer;
use crate::cluster::Batch;

/// A program runs for microseconds; what it may be reading rests much longer.
const GRACE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct Tables {
    planner: Planner,
    retired: VecDeque<(u64, Instant)>,
    /// What is gone with changes that could not be made yet.
    withheld: Vec<Gone>,
    pub(crate) problems: u64,
    pub(crate) revision: u64,
}

/// What happened to a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    InForce,
    /// Some of it could not be done; [`Tables::retry`] tries again.
    Incomplete,
}

impl Tables {
    /// Starts from what the maps hold. The ports that are in force are put into `settings`, which are to be written
    /// after this.
    pub(crate) fn adopt(
        node: &str,
        dsr: bool,
        objects: &Objects,
        settings: &mut Config,
    ) -> Result<Self, DataPlaneError> {
        let mut planner = Planner::new(node, dsr, Limits::default());
        planner.adopt(&found(objects)?);
        (settings.node_port_minimum, settings.node_port_maximum) = planner.node_ports();
        Ok(Self {
            planner,
            retired: VecDeque::new(),
            withheld: Vec::new(),
            problems: 0,
            revision: 0,
        })
    }

    pub(crate) fn planner(&self) -> &Planner {
        &self.planner
    }

    /// The node's own addresses; to be followed by [`Self::retry`].
    pub(crate) fn set_own(&mut self, addresses: Vec<Address>) {
        self.planner.set_own(addresses);
    }

    pub(crate) fn fix(
        &mut self,
        objects: &mut Objects,
        settings: &mut Config,
        fixed: Vec<Fixed>,
    ) -> Outcome {
        for entry in fixed {
            self.planner.fix(entry);
        }
        self.retry(objects, settings).0
    }

    /// The ports of the node that lead to a pod.
    pub(crate) fn host_ports(
        &mut self,
        objects: &mut Objects,
        settings: &mut Config,
        uid: &str,
        ports: &[HostPort],
    ) -> (Outcome, Vec<Gone>) {
        let problems = self.planner.host_ports(uid, ports);
        self.report(&problems);
        self.retry(objects, settings)
    }

    /// Also returns the backends that services have no more from now on.
    pub(crate) fn apply(
        &mut self,
        objects: &mut Objects,
        settings: &mut Config,
        batch: &Batch,
    ) -> (Outcome, Vec<Gone>) {
        self.tidy(objects, settings);
        let plan = self.planner.apply(batch);
        let result = self.execute(objects, settings, plan);
        if result.0 == Outcome::InForce {
            self.revision = batch.revision;
        }
        result
    }

    pub(crate) fn retry(
        &mut self,
        objects: &mut Objects,
        settings: &mut Config,
    ) -> (Outcome, Vec<Gone>) {
        self.tidy(objects, settings);
        if !self.planner.is_pending() {
            return (Outcome::InForce, Vec::new());
        }
        let plan = self.planner.retry();
        self.execute(objects, settings, plan)
    }

    /// Gives back what has rested. To be called now and then.
    pub(crate) fn tidy(&mut self, objects: &mut Objects, settings: &mut Config) {
        let mut rested = None;
        while let Some((epoch, at)) = self.retired.front().copied() {
            if at.elapsed() < GRACE {
                break;
            }
            self.retired.pop_front();
            rested = Some(epoch);
        }
        if let Some(epoch) = rested {
            let operations = self.planner.reclaim(epoch);
            let mut writer = Writer::new(objects, settings);
            writer.write(&operations);
            self.finish(writer);
        }
        let is_pod = |address: &Address| objects.pods.get(&address.bytes(), 0).is_ok();
        self.planner.forget_orphans(is_pod);
    }

    fn execute(
        &mut self,
        objects: &mut Objects,
        settings: &mut Config,
        plan: Plan,
    ) -> (Outcome, Vec<Gone>) {
        self.report(&plan.problems);
        let mut writer = Writer::new(objects, settings);
        writer.write(&plan.operations);
        let unmade = self.finish(writer);
        let gone = self.in_force(plan.gone, &unmade);
        self.retired
            .push_back((self.planner.epoch(), Instant::now()));
        let outcome = if self.planner.is_pending() {
            Outcome::Incomplete
        } else {
            Outcome::InForce
        };
        (outcome, gone)
    }

    /// Of what is gone by plan, now or earlier, what the kernel's tables do not have any more: sockets are ended when
    /// no new one can get there.
    fn in_force(&mut self, planned: Vec<Gone>, unmade: &HashSet<ServiceKey>) -> Vec<Gone> {
        if unmade.is_empty() && self.withheld.is_empty() {
            return planned;
        }
        let mut all = std::mem::take(&mut self.withheld);
        // Come back meanwhile.
        all.retain(|gone| !self.planner.has(&gone.key, &gone.backend));
        all.extend(planned);
        let (withheld, gone) = all
            .into_iter()
            .partition(|gone: &Gone| unmade.contains(&gone.key));
        self.withheld = withheld;
        gone
    }

    /// Returns the keys that are not yet as planned.
    fn finish(&mut self, writer: Writer<'_>) -> HashSet<ServiceKey> {
        let (failures, error) = writer.finish();
        if let Some(error) = error {
            let count = failures.operations().len();
            tracing::error!(%error, operations = count, "service maps not written");
            self.problems += count as u64;
        }
        self.planner.failed(failures.operations());
        let keys = failures.operations().iter().filter_map(|at| match at {
            Operation::Set { key, .. } | Operation::Remove { key } => Some(*key),
            _ => None,
        });
        keys.collect()
    }

    fn report(&mut self, problems: &[Problem]) {
        for problem in problems {
            match problem {
                Problem::Slots { .. } | Problem::Services { .. } | Problem::SourceRanges { .. } => {
                    tracing::error!(%problem, "service not programmed");
                }
                _ => tracing::warn!(%problem, "service not programmed as it was asked for"),
            }
            self.problems += 1;
        }
    }
}

/// Reads the tables, many entries a call.
fn found(objects: &Objects) -> Result<Found, DataPlaneError> {
    let failed = |action| move |source| DataPlaneError::System { action, source };
    let mut services = Vec::new();
    Scan::of::<ServiceKey, ServiceValue>(objects.services_fd.as_fd())
        .for_each(|key, value| services.push((key, value)))
        .map_err(failed("read map SERVICES"))?;
    let mut slots = Vec::with_capacity(MAX_SLOTS);
    Scan::array::<Slot>(objects.slots_fd.as_fd())
        .for_each_value::<Slot>(|slot| slots.push(slot))
        .map_err(failed("read map SLOTS"))?;
    let mut tables: HashMap<u32, u32> = HashMap::new();
    Scan::of::<MaglevKey, MaglevBlock>(objects.maglev_fd.as_fd())
        .for_each(|key: MaglevKey, _: MaglevBlock| *tables.entry(key.table).or_default() += 1)
        .map_err(failed("read map MAGLEV"))?;
    let mut ranges = Vec::new();
    for item in objects.source_ranges.iter() {
        let (key, _) = item.map_err(DataPlaneError::map("SOURCE_RANGES"))?;
        let Wire(data) = key.data();
        ranges.push(Range {
            service: data.service,
            address: data.address,
            prefix: key.prefix_len().saturating_sub(u32::BITS),
        });
    }
    Ok(Found {
        services,
        slots,
        tables,
        ranges,
    })
}
