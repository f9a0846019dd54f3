//! Which models a pool can be asked for.

use std::sync::Arc;

use super::Pool;
use crate::fleet::{LengthEstimator, PathPolicy, ReplicaModels};
use crate::units::ModelName;

impl Pool {
    /// The models the pool can be asked for now: its configured names, else what its replicas list. Sorted, no doubles.
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

    /// What measures requests for `model`, a name the pool can be asked for.
    pub fn length_estimator(&self, model: Option<&str>) -> Arc<LengthEstimator> {
        let named = model.filter(|model| {
            let lists = |name: &ModelName| name.as_str() == *model;
            self.spec.models.iter().any(lists) || self.replicas().any(|replica| replica.has_model(model))
        });
        self.length_estimators.for_model(named.map(ModelName::from).as_ref())
    }

    /// Tells whether the pool is asked for `model`.
    pub fn has_model(&self, model: &str) -> bool {
        match (&self.spec.path_policy, self.spec.models.as_slice()) {
            (PathPolicy::Any, []) => true,
            (_, []) => self.replicas().any(|r| r.has_model(model)),
            (_, names) => names.iter().any(|n| n.as_str() == model),
        }
    }
}
