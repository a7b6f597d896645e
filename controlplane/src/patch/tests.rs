//! Tests of `patch`.

#![allow(clippy::unwrap_used)]

mod json_and_merge;
mod presence;
mod server_side;
mod strategic_merge;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const POD: &str = "io.k8s.api.core.v1.Pod";
const DEPLOYMENT: &str = "io.k8s.api.apps.v1.Deployment";
const CONFIG_MAP: &str = "io.k8s.api.core.v1.ConfigMap";
const NOW: &str = "2026-01-02T03:04:05Z";
const LATER: &str = "2026-01-02T04:00:00Z";
