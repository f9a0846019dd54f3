//! The series of a group of metrics, by label values.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

/// Series `S` with their label values `L`.
///
/// *Shape*: a list in order of creation; its length is bounded by the possible label values. *Cost*: a look-up takes no
/// lock and compares the label values one after the other; adding or removing a series copies the list.
pub(super) struct LabelledSeries<L, S>(ArcSwap<SeriesList<L, S>>);

/// A snapshot of all series.
pub(super) type SeriesList<L, S> = Vec<(L, Arc<S>)>;

impl<L: Clone, S> LabelledSeries<L, S> {
    /// Returns the series whose label values satisfy `is_same`; if there is none, adds what `create` returns.
    pub(super) fn get_or_create(&self, is_same: impl Fn(&L) -> bool, create: impl FnOnce() -> (L, S)) -> Arc<S> {
        let find = |list: &[(L, Arc<S>)]| list.iter().find(|(labels, _)| is_same(labels)).map(|(_, s)| s.clone());
        if let Some(found) = find(&self.0.load()) {
            return found;
        }
        let (labels, series) = create();
        let series = Arc::new(series);
        // Another thread may have added it meanwhile.
        self.0.rcu(|list| match find(list) {
            Some(_) => list.clone(),
            None => Arc::new(list.iter().cloned().chain([(labels.clone(), series.clone())]).collect()),
        });
        find(&self.0.load()).unwrap_or(series)
    }

    /// Removes the series for which `keep` is false.
    pub(super) fn retain(&self, keep: impl Fn(&Arc<S>) -> bool) {
        let is_kept = |entry: &&(L, Arc<S>)| keep(&entry.1);
        let list = self.0.load();
        if list.iter().filter(is_kept).count() < list.len() {
            self.0.rcu(|list| list.iter().filter(is_kept).cloned().collect::<Vec<_>>());
        }
    }

    /// Returns all series of this moment.
    pub(super) fn load(&self) -> Guard<Arc<SeriesList<L, S>>> {
        self.0.load()
    }
}

impl<L, S> Default for LabelledSeries<L, S> {
    fn default() -> Self {
        Self(ArcSwap::from_pointee(Vec::new()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_labels_share_one_series_and_removed_ones_begin_again() {
        let all = LabelledSeries::<&str, u32>::default();
        let series = |name: &'static str, value| all.get_or_create(|known| *known == name, || (name, value));
        assert_eq!((*series("a", 1), *series("b", 2), *series("a", 3)), (1, 2, 1));
        all.retain(|series| **series != 1);
        assert_eq!((all.load().len(), *series("a", 4), *series("b", 5)), (1, 4, 2));
    }
}
