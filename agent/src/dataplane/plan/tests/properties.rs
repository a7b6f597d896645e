//! The planner against the model: after any sequence of events the tables say what Kubernetes says, and at no step in
//! between does a look-up see a half state.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::generate::{any_batch, any_host_ports};
use super::model::{Claimant, Model};
use super::*;

const ROOMY: Limits = Limits {
    services: 512,
    slots: 4096,
    maglev_tables: 512,
    source_ranges: 1024,
    backends: 64,
};

#[derive(Debug, Clone)]
enum Step {
    Batch(Batch),
    /// Some operations fail.
    Failing(Batch, Vec<bool>),
    HostPorts(u8, Vec<HostPort>),
    /// A new process. Whether pods tell of their hostPorts before the cluster's state is there.
    Restart {
        pods_first: bool,
    },
    /// What is told again is what is there already.
    Resync,
}

fn any_steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => any_batch().prop_map(Step::Batch),
        2 => (any_batch(), proptest::collection::vec(proptest::bool::weighted(0.2), 30))
            .prop_map(|(batch, fails)| Step::Failing(batch, fails)),
        2 => (0u8..3, any_host_ports()).prop_map(|(uid, ports)| Step::HostPorts(uid, ports)),
        1 => any::<bool>().prop_map(|pods_first| Step::Restart { pods_first }),
        1 => Just(Step::Resync),
    ];
    proptest::collection::vec(step, 1..20)
}

fn uid(number: u8) -> String {
    format!("pod{number}")
}

struct Trial {
    planner: Planner,
    maps: Maps,
    model: Model,
    limits: Limits,
}

impl Trial {
    fn new(dsr: bool, limits: Limits) -> Self {
        let mut planner = Planner::new(HERE, dsr, limits);
        tell(
            &mut planner,
            &Batch {
                full: true,
                ..Batch::default()
            },
        );
        Self {
            planner,
            maps: Maps::default(),
            model: Model::new(dsr),
            limits,
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Batch(batch) => self.batch(batch),
            Step::Failing(batch, fails) => self.failing(batch, fails),
            Step::HostPorts(number, ports) => {
                self.model.host_ports(&uid(*number), ports);
                self.planner.host_ports(&uid(*number), ports);
                let plan = self.planner.retry();
                self.maps.run(&plan);
            }
            Step::Restart { pods_first } => self.restart(*pods_first),
            Step::Resync => {
                let before = self.maps.clone();
                let plan = tell(&mut self.planner, &self.model.full());
                assert_eq!(plan, Plan::default(), "nothing changed");
                self.maps.run(&plan);
                assert_eq!(before.services, self.maps.services);
            }
        }
    }

    fn batch(&mut self, batch: &Batch) {
        let before = self.model.clone();
        self.model.apply(batch);
        let plan = tell(&mut self.planner, batch);
        self.maps.run(&plan);
        self.check_gone(&before, &plan);
    }

    fn failing(&mut self, batch: &Batch, fails: &[bool]) {
        let mut fails = fails.iter().copied();
        self.model.apply(batch);
        let mut plan = tell(&mut self.planner, batch);
        loop {
            let failures = self.maps.run_but(&plan, || fails.next().unwrap_or(false));
            self.planner.failed(failures.operations());
            for operation in self.planner.reclaim(self.planner.epoch() - 1) {
                self.maps.execute(&operation);
            }
            if !self.planner.is_pending() {
                return;
            }
            plan = self.planner.retry();
        }
    }

    fn restart(&mut self, pods_first: bool) {
        let before = self.maps.clone();
        self.planner = Planner::new(HERE, self.model.dsr, self.limits);
        self.planner.adopt(&self.maps.found());
        self.maps.node_ports = Some(self.planner.node_ports());
        let pods: Vec<Claimant> = self.model.pods.keys().cloned().map(Claimant::Pod).collect();
        let services: Vec<Claimant> = self
            .model
            .services
            .keys()
            .cloned()
            .map(Claimant::Service)
            .collect();
        let order = if pods_first {
            [pods, services].concat()
        } else {
            [services, pods].concat()
        };
        if pods_first {
            self.tell_pods();
        }
        let plan = tell(&mut self.planner, &self.model.full());
        self.maps.run(&plan);
        if !pods_first {
            self.tell_pods();
        }
        self.planner.forget_orphans(|_| false);
        let plan = self.planner.retry();
        self.maps.run(&plan);
        for (key, value) in before
            .services
            .iter()
            .filter(|(key, _)| !self.model.is_contested(key))
        {
            assert_eq!(
                self.maps.services.get(key),
                Some(value),
                "a restart changes {key:?}"
            );
        }
        self.model.restart(&order, |key| {
            let owner = self.planner.claims.holder(key).unwrap();
            match self.planner.owners.get(owner.0).unwrap() {
                OwnerState::Service(state) => Claimant::Service((*state.name).clone()),
                OwnerState::Fixed(_) => {
                    let pod = self.planner.pods.iter().find(|(_, other)| **other == owner);
                    Claimant::Pod(pod.unwrap().0.clone())
                }
            }
        });
        self.rest();
        let named: BTreeSet<u32> = self
            .maps
            .services
            .values()
            .map(|value| value.maglev)
            .filter(|table| *table != 0)
            .collect();
        assert_eq!(
            self.maps.tables.keys().copied().collect::<BTreeSet<u32>>(),
            named
        );
    }

    fn tell_pods(&mut self) {
        for (uid, ports) in &self.model.pods {
            self.planner.host_ports(uid, ports);
            let plan = self.planner.retry();
            self.maps.run(&plan);
        }
    }

    /// A backend that is in no slice of the Service any more is removed; others are unused.
    fn check_gone(&self, before: &Model, plan: &Plan) {
        let keys: BTreeSet<ServiceKey> = before
            .expected()
            .into_keys()
            .chain(self.model.expected().into_keys())
            .filter(|key| key.scope < 2)
            .collect();
        for key in keys {
            let Some((owner, had)) = before.known(&key) else {
                continue;
            };
            let now = self.model.known(&key);
            let of_key = |backend: &Backend| {
                let found = plan
                    .gone
                    .iter()
                    .find(|gone| gone.key == key && gone.backend == *backend);
                found.map(|gone| gone.state)
            };
            match now {
                Some((now_owner, known)) if now_owner == owner => {
                    for backend in had.difference(&known) {
                        assert_eq!(
                            of_key(backend),
                            Some(GoneState::Removed),
                            "{backend:?} of {key:?}"
                        );
                    }
                    for backend in &known {
                        assert_ne!(
                            of_key(backend),
                            Some(GoneState::Removed),
                            "{backend:?} of {key:?}"
                        );
                    }
                }
                _ => {
                    for backend in &had {
                        assert_ne!(
                            of_key(backend),
                            Some(GoneState::Removed),
                            "{backend:?} of {key:?}"
                        );
                    }
                }
            }
        }
    }

    fn rest(&mut self) {
        for operation in self.planner.reclaim(self.planner.epoch()) {
            self.maps.execute(&operation);
        }
    }

    fn check(&self) {
        assert_eq!(self.maps.all(), self.model.expected());
        assert_eq!(self.planner.services(), self.maps.services.len());
        assert_eq!(self.planner.maglev_tables_used(), self.maps.tables.len());
        assert_eq!(self.planner.source_ranges_used(), self.maps.ranges.len());
        let asking: BTreeSet<u32> = self
            .maps
            .services
            .values()
            .filter(|value| value.flags & agent_ebpf::layout::SERVICE_SOURCE_RANGES != 0)
            .map(|value| value.service)
            .collect();
        assert!(
            self.maps
                .ranges
                .iter()
                .all(|range| asking.contains(&range.service)),
            "ranges that nobody asks for"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn tables_follow_the_cluster(steps in any_steps(), dsr: bool) {
        let mut trial = Trial::new(dsr, ROOMY);
        for step in &steps {
            trial.step(step);
            trial.check();
            // What was retired may be used again as soon as the plan after the next.
            for operation in trial.planner.reclaim(trial.planner.epoch().saturating_sub(1)) {
                trial.maps.execute(&operation);
            }
        }
        // Without anything there is nothing.
        trial.batch(&Batch { full: true, ..Batch::default() });
        for number in 0..3 {
            trial.step(&Step::HostPorts(number, Vec::new()));
        }
        trial.rest();
        prop_assert!(trial.maps.services.is_empty() && trial.maps.tables.is_empty() && trial.maps.ranges.is_empty());
        prop_assert_eq!(trial.planner.slots_used(), 0);
        prop_assert!(!trial.planner.is_pending());
    }

    /// Tables so small that they overflow: what does not fit keeps what it had, and what fits is right.
    #[test]
    fn full_tables_break_nothing(
        batches in proptest::collection::vec(any_batch(), 1..20),
        services in 1usize..12,
        slots in 2u32..12,
        source_ranges in 0usize..4,
        maglev_tables in 0usize..3,
    ) {
        let limits = Limits { services, slots, source_ranges, maglev_tables, backends: 3 };
        let mut trial = Trial::new(false, limits);
        for batch in &batches {
            trial.model.apply(batch);
            let plan = tell(&mut trial.planner, batch);
            trial.maps.run(&plan);
            prop_assert!(trial.maps.services.len() <= services);
            prop_assert!(trial.maps.ranges.len() <= source_ranges + 3);
            prop_assert!(trial.maps.tables.len() <= maglev_tables);
            let is_short = plan.problems.iter().any(|problem| {
                matches!(problem, Problem::Slots { .. } | Problem::Services { .. } | Problem::SourceRanges { .. })
            });
            prop_assert_eq!(trial.planner.is_pending(), is_short);
            let expected = trial.model.expected();
            for (key, look) in trial.maps.all() {
                let right = expected.get(&key).is_some_and(|expected| {
                    let first: BTreeSet<Backend> = expected.backends.iter().take(3).copied().collect();
                    look.backends == first && look.flags == expected.flags && look.ranges == expected.ranges
                });
                prop_assert!(right || is_short, "{:?}", key);
            }
            trial.rest();
        }
        // Once there is room, trying again completes it.
        trial.batch(&Batch { full: true, ..Batch::default() });
        prop_assert!(trial.maps.services.is_empty() && trial.maps.ranges.is_empty());
        prop_assert!(!trial.planner.is_pending());
        trial.rest();
        prop_assert_eq!(trial.planner.slots_used(), 0);
        prop_assert_eq!(trial.planner.maglev_tables_used(), 0);
    }
}
