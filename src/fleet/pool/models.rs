//! The models that clients can request from a pool.

use std::sync::Arc;

use super::Pool;
use super::member::PoolMember;
use crate::fleet::{LengthEstimator, PathPolicy, ReplicaModels};
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

    /// Returns whether a member has never answered `/v1/models`, or the pool has no members yet.
    pub fn is_waiting_for_models(&self) -> bool {
        let is_waiting = |m: &PoolMember| !m.spec.down && !m.replica.has_known_models();
        self.needs_model_list() && (self.members.is_empty() || self.members.iter().any(is_waiting))
    }

    /// Returns whether members must have answered `/v1/models` before they are chosen.
    pub(super) fn needs_model_list(&self) -> bool {
        self.spec.path_policy != PathPolicy::Any
    }
}
