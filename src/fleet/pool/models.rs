//! Which models a pool can be asked for.

use std::sync::Arc;

use super::Pool;
use crate::fleet::{Meter, Models, Paths};
use crate::units::ModelName;

impl Pool {
    /// The models the pool can be asked for now: its configured names, else what its replicas list. Sorted, no doubles.
    pub fn models(&self) -> Vec<ModelName> {
        let mut names = self.spec.models.clone();
        if names.is_empty() {
            for replica in self.replicas() {
                if let Models::Listed(listed) = &*replica.models() {
                    names.extend(listed.iter().cloned());
                }
            }
        }
        names.sort();
        names.dedup();
        names
    }

    /// What measures requests for `model`, a name the pool can be asked for.
    pub fn meter(&self, model: Option<&str>) -> Arc<Meter> {
        let named = model.filter(|model| {
            let lists = |name: &ModelName| name.as_str() == *model;
            self.spec.models.iter().any(lists) || self.replicas().any(|replica| replica.serves(model))
        });
        self.meters.of(named.map(ModelName::from).as_ref())
    }

    /// Tells whether the pool is asked for `model`.
    pub fn serves(&self, model: &str) -> bool {
        match (&self.spec.paths, self.spec.models.as_slice()) {
            (Paths::Any, []) => true,
            (_, []) => self.replicas().any(|r| r.serves(model)),
            (_, names) => names.iter().any(|n| n.as_str() == model),
        }
    }
}
