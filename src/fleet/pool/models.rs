//! The models that clients can request from a pool.

use std::sync::Arc;

use super::Pool;
use super::member::PoolMember;
use crate::fleet::{LengthEstimator, ModelListFault, PathPolicy, ReplicaModels};
use crate::units::{ModelFit, ModelName, Tokens};

impl Pool {
    /// Returns the models that can be requested now: the configured names, else those the replicas list. Sorted,
    /// unique.
    ///
    /// A pattern is represented by the listed models that fit it. If none does, by each listed model with the pattern's
    /// beginning in front: `claude-*` by `claude-qwen3`, which [`Lease::upstream_model`](crate::fleet::Lease) leads to
    /// `qwen3`.
    pub fn models(&self) -> Vec<ModelName> {
        let mut names = self.spec.models.exact().to_vec();
        let listed = if self.spec.models.is_empty() { Some("") } else { None };
        for prefix in listed.into_iter().chain(self.spec.models.prefixes()) {
            let listed = self.listed_models();
            let fitting: Vec<ModelName> =
                listed.iter().filter(|name| name.as_str().starts_with(prefix)).cloned().collect();
            match fitting.is_empty() {
                true => names.extend(listed.iter().map(|name| ModelName::from(&*format!("{prefix}{name}")))),
                false => names.extend(fitting),
            }
        }
        names.sort();
        names.dedup();
        names
    }

    fn listed_models(&self) -> Vec<ModelName> {
        let mut names = Vec::new();
        for replica in self.replicas() {
            if let ReplicaModels::Listed(listed) = &*replica.models() {
                names.extend(listed.iter().cloned());
            }
        }
        names
    }

    /// Returns the length estimator of `model`; the shared one if the pool does not have the model. Models that only a
    /// pattern fits share one, named by the pattern.
    pub fn length_estimator(&self, model: Option<&str>) -> Arc<LengthEstimator> {
        let known = model.and_then(|model| match self.spec.models.find(model) {
            Some((name, ModelFit::Exact)) => Some(name.clone()),
            _ if self.replicas().any(|replica| replica.has_model(model)) => Some(ModelName::from(model)),
            found => found.map(|(pattern, _)| pattern.clone()),
        });
        self.length_estimators.for_model(known.as_ref())
    }

    /// Returns how closely `model` fits the pool's models; `None` if the pool does not serve it.
    pub fn model_fit(&self, model: &str) -> Option<ModelFit> {
        if self.spec.models.is_empty() {
            return self.replicas().any(|replica| replica.has_model(model)).then_some(ModelFit::Exact);
        }
        self.spec.models.find(model).map(|(_, fit)| fit)
    }

    /// Returns the longest prompt and answer together that every replica with `model` takes; `None` if none lists it. A
    /// name that no replica lists is one of an alias: all count.
    pub fn context_length(&self, model: &str) -> Option<Tokens> {
        let is_listed = self.replicas().any(|replica| replica.has_model(model));
        let replicas = self.replicas().filter(|replica| !is_listed || replica.has_model(model));
        replicas.filter_map(|replica| replica.context_length(model)).min_by_key(|length| length.0)
    }

    /// Returns whether the pool serves every model, since it passes every path and names none.
    pub fn takes_any_model(&self) -> bool {
        self.spec.path_policy == PathPolicy::Any && self.spec.models.is_empty()
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
