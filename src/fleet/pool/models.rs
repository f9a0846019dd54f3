//! The models that clients can request from a pool.

use std::sync::Arc;

use super::Pool;
use super::member::PoolMember;
use crate::fleet::{LengthEstimator, ModelListFault, PathPolicy, ReplicaModels};
use crate::units::ModelName;

impl Pool {
    /// Returns the models that can be requested now: the configured names, else those the replicas list. Sorted,
    /// unique.
    pub fn models(&self) -> Vec<ModelName> {
        let mut names = self.spec.models.clone();
        if names.is_empty() {
            for replica in self.replicas() {
                if let ReplicaModels::Listed(listed) = &*replica.models() {
                    names.extend(listed.iter().cloned());
                }
            }
        }
        names.sort();
        names.dedup();
        names
    }

    /// Returns the length estimator of `model`; the shared one if the pool does not have the model.
    pub fn length_estimator(&self, model: Option<&str>) -> Arc<LengthEstimator> {
        let known = model.filter(|model| {
            let is_model = |name: &ModelName| name.as_str() == *model;
            self.spec.models.iter().any(is_model) || self.replicas().any(|replica| replica.has_model(model))
        });
        self.length_estimators.for_model(known.map(ModelName::from).as_ref())
    }

    /// Returns whether the pool serves `model`.
    pub fn has_model(&self, model: &str) -> bool {
        match (&self.spec.path_policy, self.spec.models.as_slice()) {
            (PathPolicy::Any, []) => true,
            (_, []) => self.replicas().any(|replica| replica.has_model(model)),
            (_, names) => names.iter().any(|name| name.as_str() == model),
        }
    }

    /// Returns whether the pool takes its models from the lists of its replicas.
    pub fn learns_models(&self) -> bool {
        self.rules().learns_models
    }

    /// Returns whether a member may serve models that are not known, or the pool has no members yet.
    ///
    /// A server without a list of models counts only if no other member has one.
    pub fn is_waiting_for_models(&self) -> bool {
        if !self.needs_model_list() {
            return false;
        }
        let mut not_ready = self.members_without_models().peekable();
        if not_ready.peek().is_none() {
            return self.members.is_empty();
        }
        let may_hide = |m: &PoolMember| m.replica.model_list_fault().is_none_or(ModelListFault::may_hide_models);
        not_ready.any(may_hide) || !self.members.iter().any(|m| m.replica.lists_models())
    }

    /// Returns why a member's models are not known; `None` if all are, or no member gives a reason.
    pub fn model_list_fault(&self) -> Option<ModelListFault> {
        let mut faults = self.members_without_models().filter_map(|m| m.replica.model_list_fault());
        faults.find(|fault| fault.is_specific())
    }

    fn members_without_models(&self) -> impl Iterator<Item = &PoolMember> {
        let rules = self.rules();
        self.members.iter().filter(move |m| !m.spec.down && !m.is_ready(rules))
    }

    /// Returns whether members must have answered `/v1/models` before they are chosen.
    pub(super) fn needs_model_list(&self) -> bool {
        self.spec.path_policy != PathPolicy::Any
    }
}
