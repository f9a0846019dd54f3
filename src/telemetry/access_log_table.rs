//! All access logs that are open, by the routes that write to them.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::access_log::AccessLogSet;
use super::writer::LogWriter;
use crate::routes::AccessLogSpec;
use crate::units::LogSink;

/// The access logs of routes with logs of their own, and that of all others.
///
/// Never changed, only replaced. Each file is opened once, however many formats it has.
#[derive(Clone)]
pub struct AccessLogTable {
    /// `None` if it is off.
    default: Option<Arc<AccessLogSet>>,
    /// `None` for routes whose log is off.
    scoped: BTreeMap<Arc<[AccessLogSpec]>, Option<Arc<AccessLogSet>>>,
    writers: BTreeMap<LogSink, Arc<LogWriter>>,
    needs_socket_addrs: bool,
    /// The table that this one replaces, until no request can be routed by the old configuration.
    replaced: Option<Arc<Self>>,
}

impl AccessLogTable {
    /// Opens the log `default` and those in `scoped`. Files that are open in `previous` stay open.
    ///
    /// *Errors*: those of `open`, which returns `None` for [`LogSink::Off`].
    pub fn open<'a, E>(
        default: &AccessLogSpec,
        scoped: impl IntoIterator<Item = &'a Arc<[AccessLogSpec]>>,
        previous: Option<&Self>,
        mut open: impl FnMut(&LogSink) -> Result<Option<LogWriter>, E>,
    ) -> Result<Self, E> {
        let mut writers: BTreeMap<LogSink, Arc<LogWriter>> = BTreeMap::new();
        let mut open_set = |specs: &[AccessLogSpec]| -> Result<Option<Arc<AccessLogSet>>, E> {
            let mut logs = Vec::new();
            for AccessLogSpec { sink, format } in specs {
                let known = writers.get(sink).or_else(|| previous?.writers.get(sink)).cloned();
                let Some(writer) = known.map_or_else(|| Ok(open(sink)?.map(Arc::new)), |known| Ok(Some(known)))? else {
                    continue;
                };
                writers.insert(sink.clone(), writer.clone());
                logs.push((writer, format.clone()));
            }
            Ok(AccessLogSet::new(logs).map(Arc::new))
        };
        let default = open_set(std::slice::from_ref(default))?;
        let mut sets = BTreeMap::new();
        for specs in scoped {
            if !sets.contains_key(specs) {
                sets.insert(specs.clone(), open_set(specs)?);
            }
        }
        let all = || default.iter().chain(sets.values().flatten());
        let needs_socket_addrs = all().any(|set| set.required_fields().socket_addrs);
        Ok(Self { default, scoped: sets, writers, needs_socket_addrs, replaced: None })
    }

    /// Returns this table, which knows the logs of `old` too.
    #[must_use]
    pub fn with_replaced(&self, old: Arc<Self>) -> Self {
        Self { replaced: Some(old), ..self.clone() }
    }

    /// Returns the logs of a route whose own are `specs`, `Some(None)` if they are off; `None` if this table does not know
    /// them.
    pub fn find(&self, specs: Option<&Arc<[AccessLogSpec]>>) -> Option<&Option<Arc<AccessLogSet>>> {
        let Some(specs) = specs else { return Some(&self.default) };
        self.scoped.get(specs).or_else(|| self.replaced.as_ref()?.scoped.get(specs))
    }

    /// Returns whether some format needs the addresses of connections.
    pub const fn needs_socket_addrs(&self) -> bool {
        self.needs_socket_addrs
    }

    /// Opens all files again, after they were moved away by log rotation, and returns the error of each that cannot be
    /// opened; its lines still go to the old one.
    pub fn reopen(&self) -> Vec<io::Error> {
        self.writers.values().filter_map(|writer| writer.reopen().err()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log_format::{LogEscape, LogFormat};
    use crate::telemetry::DroppedLines;

    fn specs(format: &str) -> Arc<[AccessLogSpec]> {
        [AccessLogSpec { sink: LogSink::Stderr, format: LogFormat::new(format, LogEscape::None).unwrap() }].into()
    }

    /// Returns the table of routes with these logs, and how many writers it has opened.
    fn open(scoped: &[&Arc<[AccessLogSpec]>], previous: Option<&AccessLogTable>) -> (Arc<AccessLogTable>, usize) {
        let default = AccessLogSpec { sink: LogSink::Off, ..specs("")[0].clone() };
        let mut opened = 0;
        let table = AccessLogTable::open(&default, scoped.iter().copied(), previous, |sink| {
            opened += usize::from(*sink != LogSink::Off);
            Ok::<_, ()>((*sink != LogSink::Off).then(|| LogWriter::stderr(&DroppedLines::default())))
        });
        (table.unwrap().into(), opened)
    }

    #[test]
    fn routes_with_the_same_logs_share_them_and_their_writer() {
        let (first, second, same, none) = (specs("$remote_port"), specs("b"), specs("b"), Arc::from([]));
        let (table, opened) = open(&[&first, &second, &none], None);
        assert_eq!(opened, 1);
        let found = |specs| table.find(Some(specs)).unwrap().as_ref();
        assert!(Arc::ptr_eq(found(&second).unwrap(), found(&same).unwrap()) && found(&none).is_none());
        assert!(table.find(None).unwrap().is_none() && table.needs_socket_addrs());
    }

    #[test]
    fn logs_of_the_replaced_table_are_found_until_the_end_of_the_reload() {
        let (old, new) = (specs("old"), specs("new"));
        let (table, _) = open(&[&old], None);
        let (next, opened) = open(&[&new], Some(&table));
        assert!(opened == 0 && next.find(Some(&old)).is_none() && next.find(Some(&new)).is_some());
        let both = next.with_replaced(table);
        assert!(both.find(Some(&old)).is_some() && both.find(Some(&new)).is_some());
    }
}
