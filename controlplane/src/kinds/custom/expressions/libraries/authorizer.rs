//! What somebody may do: `authorizer.group("apps").resource("deployments").check("create").allowed()`.

use std::sync::Arc;

use cel::common::types::{STRING_TYPE, Type};
use cel::objects::Opaque;
use cel::{DeclarationError, Env};

use super::super::cost::{charge, charge_text};
use super::{Arguments, Outcome, give, give_opaque, member, opaque_at, text_at};

/// Units that a check costs, as in Kubernetes.
const CHECK: u64 = 350_000;

/// Tenths that a byte of a selector costs.
const SELECTOR: usize = 250;

const AUTHORIZER: &str = "kubernetes.authorization.Authorizer";
const PATH: &str = "kubernetes.authorization.PathCheck";
const GROUP: &str = "kubernetes.authorization.GroupCheck";
const RESOURCE: &str = "kubernetes.authorization.ResourceCheck";
const DECISION: &str = "kubernetes.authorization.Decision";

/// Who is asked about, and what for. `path` is for what is no resource.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Question {
    pub(crate) user: String,
    pub(crate) uid: String,
    pub(crate) groups: Vec<String>,
    pub(crate) group: String,
    pub(crate) resource: String,
    pub(crate) subresource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) path: Option<String>,
    pub(crate) verb: String,
}

/// Who answers such questions.
pub(crate) trait Access: std::fmt::Debug + Send + Sync {
    /// Whether it is allowed, and why.
    fn check(&self, question: &Question) -> (bool, String);
}

#[derive(Debug, Clone)]
pub(crate) struct Authorizer {
    pub(crate) access: Arc<dyn Access>,
    pub(crate) question: Question,
    /// How far the question is put together: one of the names of types.
    stage: &'static str,
}

impl PartialEq for Authorizer {
    fn eq(&self, other: &Self) -> bool {
        self.stage == other.stage && self.question == other.question
    }
}

impl Eq for Authorizer {}

impl Opaque for Authorizer {
    fn runtime_type_name(&self) -> &str {
        self.stage
    }
}

impl Authorizer {
    /// The variable `authorizer`, for the user of the question.
    pub(crate) fn new(access: Arc<dyn Access>, user: Question) -> Self {
        Self {
            access,
            question: user,
            stage: AUTHORIZER,
        }
    }

    /// The variable `authorizer.requestResource`.
    pub(crate) fn of_request(access: Arc<dyn Access>, question: Question) -> Self {
        Self {
            access,
            question,
            stage: RESOURCE,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Decision {
    allowed: bool,
    reason: String,
}

impl Opaque for Decision {
    fn runtime_type_name(&self) -> &str {
        DECISION
    }
}

fn opaque(name: &'static str) -> Type {
    Type::new_opaque_type(name)
}

/// The same with one more thing said.
fn said<'b, 'v>(
    arguments: &Arguments<'b, 'v>,
    stage: &'static str,
    how: fn(&mut Question, String),
) -> Outcome<'b, 'v> {
    let mut authorizer: Authorizer = opaque_at(arguments, 0)?;
    how(&mut authorizer.question, text_at(arguments, 1)?.to_owned());
    authorizer.stage = stage;
    give_opaque(authorizer)
}

fn check<'b, 'v>(arguments: Arguments<'b, 'v>) -> Outcome<'b, 'v> {
    charge(CHECK)?;
    let mut authorizer: Authorizer = opaque_at(&arguments, 0)?;
    text_at(&arguments, 1)?.clone_into(&mut authorizer.question.verb);
    let (allowed, reason) = authorizer.access.check(&authorizer.question);
    give_opaque(Decision { allowed, reason })
}

pub(super) fn library(env: &mut Env) -> Result<(), DeclarationError> {
    for name in [AUTHORIZER, PATH, GROUP, RESOURCE, DECISION] {
        env.add_type(opaque(name))?;
    }
    let text = || vec![STRING_TYPE];
    let authorizer = || opaque(AUTHORIZER);
    member(env, "path", authorizer(), text(), |arguments| {
        said(&arguments, PATH, |question, path| {
            question.path = Some(path)
        })
    })?;
    member(env, "group", authorizer(), text(), |arguments| {
        said(&arguments, GROUP, |question, group| question.group = group)
    })?;
    member(
        env,
        "serviceAccount",
        authorizer(),
        vec![STRING_TYPE, STRING_TYPE],
        service_account,
    )?;
    member(env, "resource", opaque(GROUP), text(), |arguments| {
        said(&arguments, RESOURCE, |question, resource| {
            question.resource = resource;
        })
    })?;
    member(env, "subresource", opaque(RESOURCE), text(), |arguments| {
        said(&arguments, RESOURCE, |question, subresource| {
            question.subresource = subresource;
        })
    })?;
    member(env, "namespace", opaque(RESOURCE), text(), |arguments| {
        said(&arguments, RESOURCE, |question, namespace| {
            question.namespace = namespace;
        })
    })?;
    member(env, "name", opaque(RESOURCE), text(), |arguments| {
        said(&arguments, RESOURCE, |question, name| question.name = name)
    })?;
    for name in ["fieldSelector", "labelSelector"] {
        // Nobody who is asked looks at selectors: what is allowed is allowed for all objects.
        member(env, name, opaque(RESOURCE), text(), |arguments| {
            charge_text(text_at(&arguments, 1)?.len(), SELECTOR)?;
            give_opaque(opaque_at::<Authorizer>(&arguments, 0)?)
        })?;
    }
    member(env, "check", opaque(PATH), text(), check)?;
    member(env, "check", opaque(RESOURCE), text(), check)?;
    member(env, "allowed", opaque(DECISION), vec![], |arguments| {
        give(opaque_at::<Decision>(&arguments, 0)?.allowed)
    })?;
    member(env, "reason", opaque(DECISION), vec![], |arguments| {
        give(opaque_at::<Decision>(&arguments, 0)?.reason)
    })?;
    member(env, "errored", opaque(DECISION), vec![], |_| give(false))?;
    member(env, "error", opaque(DECISION), vec![], |_| give(""))
}

fn service_account<'b, 'v>(arguments: Arguments<'b, 'v>) -> Outcome<'b, 'v> {
    let mut authorizer: Authorizer = opaque_at(&arguments, 0)?;
    let (namespace, name) = (text_at(&arguments, 1)?, text_at(&arguments, 2)?);
    authorizer.question = Question {
        user: format!("system:serviceaccount:{namespace}:{name}"),
        groups: vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
            "system:authenticated".to_owned(),
        ],
        ..Question::default()
    };
    give_opaque(authorizer)
}
