//! Amounts of resources and what a pod asks for. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

type Quantities = BTreeMap<String, Quantity>;

/// What pods without requests count as when nodes are compared (not when they are filled).
const DEFAULT_MILLI_CPU: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Resources {
    pub(super) milli_cpu: i64,
    pub(super) memory: i64,
    pub(super) ephemeral: i64,
    /// Everything else by name: extended resources, huge pages.
    pub(super) other: BTreeMap<String, i64>,
}

/// Thousandths of the unit, rounded up; `None` for what is no quantity. Saturates.
pub(crate) fn milli(quantity: &Quantity) -> Option<i64> {
    let text = quantity.0.trim();
    let end = text
        .char_indices()
        .find(|(position, letter)| {
            !(letter.is_ascii_digit()
                || *letter == '.'
                || (*position == 0 && "+-".contains(*letter)))
        })
        .map_or(text.len(), |(position, _)| position);
    let (number, suffix) = text.split_at(end);
    let (factor, divisor): (i128, i128) = match suffix {
        "" => (1_000, 1),
        "n" => (1, 1_000_000),
        "u" => (1, 1_000),
        "m" => (1, 1),
        "k" => (1_000_000, 1),
        "M" => (1_000_000_000, 1),
        "G" => (1_000_000_000_000, 1),
        "T" => (1_000_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000_000, 1),
        "Ki" => (1_000 << 10, 1),
        "Mi" => (1_000 << 20, 1),
        "Gi" => (1_000 << 30, 1),
        "Ti" => (1_000 << 40, 1),
        "Pi" => (1_000 << 50, 1),
        "Ei" => (1_000 << 60, 1),
        exponent => {
            let exponent: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            if !(-18..=18).contains(&exponent) {
                return None;
            }
            let power = 10_i128.pow(exponent.unsigned_abs());
            if exponent < 0 {
                (1_000, power)
            } else {
                (1_000 * power, 1)
            }
        }
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let negative = whole.starts_with('-');
    let digits = whole.trim_start_matches(['+', '-']);
    if (digits.is_empty() && fraction.is_empty()) || digits.len() > 18 || fraction.len() > 18 {
        return None;
    }
    let whole: i128 = if digits.is_empty() {
        0
    } else {
        digits.parse().ok()?
    };
    let scale = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
    let part: i128 = if fraction.is_empty() {
        0
    } else {
        fraction.parse().ok()?
    };
    let value = whole.checked_mul(scale)?.checked_add(part)?;
    let numerator = value.checked_mul(factor).unwrap_or(i128::MAX / 2);
    let denominator = scale.checked_mul(divisor)?;
    let result = numerator / denominator + i128::from(numerator % denominator != 0);
    let result = i64::try_from(result).unwrap_or(i64::MAX);
    Some(if negative { -result } else { result })
}

/// Whole units, rounded up.
fn units(quantity: &Quantity) -> i64 {
    let milli = milli(quantity).unwrap_or(0);
    milli / 1_000 + i64::from(milli % 1_000 > 0)
}

/// Whole units of an amount that can be larger than thousandths of it can be counted.
fn bytes(quantity: &Quantity) -> i64 {
    match milli(quantity) {
        Some(i64::MAX) => i64::MAX,
        _ => units(quantity),
    }
}

impl Resources {
    pub(super) fn of(quantities: &Quantities) -> Self {
        let mut all = Self::default();
        for (name, quantity) in quantities {
            match name.as_str() {
                "cpu" => all.milli_cpu = milli(quantity).unwrap_or(0),
                "memory" => all.memory = bytes(quantity),
                "ephemeral-storage" => all.ephemeral = bytes(quantity),
                "pods" => {}
                _ => {
                    all.other.insert(name.clone(), units(quantity));
                }
            }
        }
        all
    }

    pub(super) fn add(&mut self, more: &Self) {
        self.combine(more, i64::saturating_add);
    }

    pub(super) fn subtract(&mut self, less: &Self) {
        self.combine(less, i64::saturating_sub);
    }

    fn most(&mut self, other: &Self) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, other: &Self, with: fn(i64, i64) -> i64) {
        self.milli_cpu = with(self.milli_cpu, other.milli_cpu);
        self.memory = with(self.memory, other.memory);
        self.ephemeral = with(self.ephemeral, other.ephemeral);
        for (name, amount) in &other.other {
            let slot = self.other.entry(name.clone()).or_default();
            *slot = with(*slot, *amount);
        }
    }
}

/// Pods that a node takes; the "pods" quantity of its allocatable.
pub(super) fn pod_limit(quantities: Option<&Quantities>) -> i64 {
    quantities
        .and_then(|all| all.get("pods"))
        .map_or(110, units)
}

/// A container's requests; what has a limit only requests that.
fn container(container: &Container) -> Quantities {
    let Some(resources) = &container.resources else {
        return Quantities::new();
    };
    let mut requests = resources.requests.clone().unwrap_or_default();
    for (name, limit) in resources.limits.iter().flatten() {
        requests
            .entry(name.clone())
            .or_insert_with(|| limit.clone());
    }
    requests
}

/// What is asked for the pod as a whole counts instead of the sum over its containers.
fn pod_level(spec: &PodSpec, total: &mut Resources) {
    let Some(resources) = &spec.resources else {
        return;
    };
    let mut requests = resources.requests.clone().unwrap_or_default();
    for (name, limit) in resources.limits.iter().flatten() {
        requests
            .entry(name.clone())
            .or_insert_with(|| limit.clone());
    }
    let whole = Resources::of(&requests);
    if requests.contains_key("cpu") {
        total.milli_cpu = whole.milli_cpu;
    }
    if requests.contains_key("memory") {
        total.memory = whole.memory;
    }
    for (name, amount) in whole.other {
        if name.starts_with("hugepages-") {
            total.other.insert(name, amount);
        }
    }
}

/// What filling a node counts, and what comparing nodes counts.
pub(super) fn requested(pod: &Pod) -> (Resources, Resources) {
    let Some(spec) = &pod.spec else {
        return (Resources::default(), Resources::default());
    };
    let sum = |with_defaults: bool| {
        let amount = |from: &Container| {
            let mut amount = Resources::of(&container(from));
            if with_defaults {
                if amount.milli_cpu == 0 {
                    amount.milli_cpu = DEFAULT_MILLI_CPU;
                }
                if amount.memory == 0 {
                    amount.memory = DEFAULT_MEMORY;
                }
            }
            amount
        };
        let mut total = Resources::default();
        for each in &spec.containers {
            total.add(&amount(each));
        }
        // Init containers run one after the other, sidecars stay.
        let mut sidecars = Resources::default();
        let mut init = Resources::default();
        for each in spec.init_containers.iter().flatten() {
            let mut now = amount(each);
            if each.restart_policy.as_deref() == Some("Always") {
                sidecars.add(&now);
                init.most(&sidecars);
            } else {
                now.add(&sidecars);
                init.most(&now);
            }
        }
        total.add(&sidecars);
        total.most(&init);
        pod_level(spec, &mut total);
        if let Some(overhead) = &spec.overhead {
            total.add(&Resources::of(overhead));
        }
        total
    };
    (sum(false), sum(true))
}
