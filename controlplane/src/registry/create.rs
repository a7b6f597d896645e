//! Create: names, identity, defaults, validation, allocation, and one transaction that also holds the
//! namespace still.

use serde_json::Value;

use super::generated_name::generate_name;
use super::judges::{Attempt, Operation};
use super::update::{Ownership, pinned_version};
use super::{
    ApiError, MAX_ATTEMPTS, Registry, WriteOptions, Written, key, node_ranges, object, pod_account,
    service_alloc,
};
use crate::kinds::{self, Kind, Scope, meta};
use crate::schema::{check_and_prune, drop_unset};
use crate::store::{Compare, Freshness, Op, Txn};

impl Registry {
    pub(crate) async fn create(
        &self,
        kind: &Kind<'_>,
        namespace: &str,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let ownership = Ownership::Track;
        self.create_owned(kind, namespace, object, options, ownership)
            .await
    }

    pub(super) async fn create_owned(
        &self,
        kind: &Kind<'_>,
        namespace: &str,
        object: Value,
        options: &WriteOptions,
        ownership: Ownership,
    ) -> Result<Written, ApiError> {
        let (kind, object) = match kind.strategy.stored() {
            Some(stored) => {
                // What this version asks for beyond the one that is stored.
                let errors = kind.strategy.validate(&object, None, "");
                if !errors.is_empty() {
                    return Err(ApiError::invalid(kind, object::name(&object), &errors));
                }
                (stored, kind.strategy.to_stored(object))
            }
            None => (kind, object),
        };
        if kind
            .strategy
            .custom()
            .is_some_and(|version| version.common.terminating)
        {
            return Err(ApiError::definition_terminating());
        }
        let prepared = self.prepare(kind, namespace, object)?;
        let mut object = prepared;
        let generated = object::name(&object).is_empty();
        let base = object::meta(&object, "generateName").to_owned();
        for _ in 0..MAX_ATTEMPTS {
            if generated && !base.is_empty() {
                object::set_meta(&mut object, "name", generate_name(&base));
                // Defaults that follow from the name, such as the label of a Namespace.
                kind.strategy.default(&mut object);
            }
            match self
                .create_once(
                    kind,
                    namespace,
                    object.clone(),
                    options,
                    generated,
                    ownership,
                )
                .await?
            {
                Ok(written) => return Ok(written),
                Err(Retry::Taken) if generated && !base.is_empty() => {}
                Err(Retry::Taken) => {
                    return Err(ApiError::already_exists(kind, object::name(&object)));
                }
                Err(Retry::Moved) => {}
            }
        }
        Err(ApiError::timeout(
            "the object could not be created, please try again",
        ))
    }

    /// What does not depend on the state of the store.
    fn prepare(
        &self,
        kind: &Kind<'_>,
        namespace: &str,
        mut object: Value,
    ) -> Result<Value, ApiError> {
        // What is no version is passed over, as Kubernetes' store does (`ObjectResourceVersion`).
        if pinned_version(&object).parse::<u64>().is_ok() {
            return Err(ApiError::bad_request(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        set_namespace(kind, namespace, &mut object)?;
        let map = object::meta_mut(&mut object);
        for server_owned in [
            "selfLink",
            "generation",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "resourceVersion",
        ] {
            map.remove(server_owned);
        }
        map.insert("uid".to_owned(), uuid::Uuid::new_v4().to_string().into());
        map.insert("creationTimestamp".to_owned(), object::now().into());
        object["kind"] = kind.kind.into();
        object["apiVersion"] = api_version(kind).into();
        kind.strategy.default(&mut object);
        kind.strategy.prepare_create(&mut object);
        Ok(object)
    }

    async fn create_once(
        &self,
        kind: &Kind<'_>,
        namespace: &str,
        mut object: Value,
        options: &WriteOptions,
        generated: bool,
        ownership: Ownership,
    ) -> Result<Result<Written, Retry>, ApiError> {
        let name = object::name(&object).to_owned();
        let mut txn = Txn::default();
        if kind.scope == Scope::Namespaced {
            txn.compares
                .push(self.hold_namespace(kind, namespace, &name).await?);
        }
        self.admit_create(kind, &mut object).await?;
        if pod_account::concerns(kind) && self.requires_accounts() {
            self.admit_account(namespace, &mut object).await?;
        }
        let requester = options.requester();
        let attempt = Attempt {
            kind,
            speaks: None,
            requested: None,
            namespace,
            // Who has the name made for them has not named anything (AdmissionRequest's `name`).
            name: if generated { "" } else { &name },
            subresource: "",
            operation: Operation::Create,
            object: None,
            old: None,
            dry_run: options.dry_run,
            options: &options.said,
            requester: &requester,
            remarks: &options.remarks,
        };
        let asked = Attempt {
            object: Some(&object),
            ..attempt
        };
        if let Some(mutated) = self.mutated(asked).await? {
            object = accepted(kind, &object, mutated)?;
        }
        let mut errors = meta::validate(kind, &object, None);
        errors.extend(kind.strategy.validate(&object, None, ""));
        if !errors.is_empty() {
            return Err(ApiError::invalid(kind, &name, &errors));
        }
        options.judge(None, &object)?;
        let asked = Attempt {
            object: Some(&object),
            ..attempt
        };
        self.judged(asked).await?;
        let object_key = key::object(kind, namespace, &name);
        // Told first, so that a Service that exists is not reported as an address that is taken.
        if self
            .store()
            .get(&object_key, Freshness::Local)
            .await?
            .is_some()
        {
            return Ok(Err(Retry::Taken));
        }
        let _quota_turn = self.quota_turn(kind, namespace).await?;
        self.charge(kind, namespace, &object, None, "")
            .await?
            .add_to(&mut txn);
        if service_alloc::concerns(kind) {
            let plan = self.allocate(kind, &mut object, None).await?;
            plan.add_to(&mut txn, &object);
        }
        if node_ranges::concerns(kind, &object, None) {
            self.guard_ranges(kind, &object, &mut txn).await?;
        }
        drop_unset(kind, &mut object);
        // Who may have owned fields of an object that this is a copy of, is of no account.
        if ownership == Ownership::Track && !options.manager.is_empty() {
            let (manager, now) = (&options.manager, object::now());
            crate::patch::track_update(kind, None, &mut object, manager, "", &now);
        }
        if options.dry_run {
            return Ok(Ok(Written::Unstored(object)));
        }
        let object = self.to_stored(kind, object).await?;
        txn.compares.push(Compare {
            key: object_key.clone(),
            mod_revision: 0,
        });
        txn.ops.insert(
            0,
            Op::Put {
                key: object_key.clone(),
                value: object::encode(&object),
            },
        );
        Ok(match self.commit(txn).await? {
            Ok(written) => {
                Ok(Written::Stored(written.into_iter().next().ok_or_else(
                    || ApiError::internal("the store returned no version"),
                )?))
            }
            Err(key) if key == object_key => Err(Retry::Taken),
            Err(_) => Err(Retry::Moved),
        })
    }

    /// The comparison that makes a create fail when its namespace changes meanwhile.
    async fn hold_namespace(
        &self,
        kind: &Kind<'_>,
        namespace: &str,
        name: &str,
    ) -> Result<Compare, ApiError> {
        let namespaces = kinds::by_plural("", "v1", "namespaces")
            .ok_or_else(|| ApiError::internal("the Namespace kind is not served"))?;
        let kv = self
            .get(namespaces, "", namespace, Freshness::Local)
            .await?;
        let stored = object::decode(&kv);
        if object::is_terminating(&stored) || stored["status"]["phase"] == "Terminating" {
            return Err(ApiError::namespace_terminating(kind, name, namespace));
        }
        Ok(Compare {
            key: kv.key.to_string(),
            mod_revision: kv.mod_revision,
        })
    }
}

/// What others have made of an object, with its identity as it was, its fields checked and its defaults.
pub(super) fn accepted(
    kind: &Kind<'_>,
    before: &Value,
    mut mutated: Value,
) -> Result<Value, ApiError> {
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "generateName",
    ] {
        match before["metadata"].get(field) {
            Some(value) => object::set_meta(&mut mutated, field, value.clone()),
            None => object::remove_meta(&mut mutated, field),
        }
    }
    mutated["kind"] = before["kind"].clone();
    mutated["apiVersion"] = before["apiVersion"].clone();
    object::strip_absent(kind, &mut mutated);
    let problems = check_and_prune(kind, &mut mutated);
    if let Some(wrong) = problems.iter().find(|problem| problem.is_fatal()) {
        return Err(ApiError::internal(wrong));
    }
    kind.strategy.default(&mut mutated);
    Ok(mutated)
}

/// Why one attempt to create did not go through.
enum Retry {
    /// The name is taken.
    Taken,
    /// Something that the transaction held still has moved.
    Moved,
}

/// `apps/v1`, or `v1` for the core group.
pub(crate) fn api_version(kind: &Kind<'_>) -> String {
    if kind.group.is_empty() {
        kind.version.to_owned()
    } else {
        format!("{}/{}", kind.group, kind.version)
    }
}

/// The namespace of the URL wins; one in the body must be the same.
pub(crate) fn set_namespace(
    kind: &Kind<'_>,
    namespace: &str,
    object: &mut Value,
) -> Result<(), ApiError> {
    if kind.scope == Scope::Cluster {
        object::remove_meta(object, "namespace");
        return Ok(());
    }
    let given = object::namespace(object);
    if !given.is_empty() && given != namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    object::set_meta(object, "namespace", namespace);
    Ok(())
}
