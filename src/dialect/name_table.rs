//! A small map from names to values, for look-ups on the request path.

/// Values by name, for a few dozen short names known at start. *Cost*: mostly one comparison a look-up.
pub(super) struct NameTable<T> {
    by_length: Vec<Vec<(&'static str, T)>>,
}

impl<T: Copy> NameTable<T> {
    /// Returns a table of `entries`; of entries with one name the first stays.
    pub(super) fn new(entries: impl IntoIterator<Item = (&'static str, T)>) -> Self {
        let mut table = Self { by_length: Vec::new() };
        for (name, value) in entries {
            if table.get(name).is_none() {
                let lengths = table.by_length.len().max(name.len() + 1);
                table.by_length.resize_with(lengths, Vec::new);
                table.by_length[name.len()].push((name, value));
            }
        }
        table
    }

    /// Returns the value of `name`.
    pub(super) fn get(&self, name: &str) -> Option<T> {
        let first = name.bytes().next();
        let same_length = self.by_length.get(name.len())?;
        // Comparing the first byte here saves most calls of `memcmp`.
        same_length.iter().find(|(known, _)| known.bytes().next() == first && *known == name).map(|(_, value)| *value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_whole_and_the_first_value_of_a_name_stays() {
        let table = NameTable::new([("id", 1), ("url", 2), ("uri", 3), ("id", 4)]);
        assert_eq!(["id", "url", "uri"].map(|name| table.get(name)), [Some(1), Some(2), Some(3)]);
        assert_eq!(["", "i", "idx", "urn", "a longer name"].map(|name| table.get(name)), [None; 5]);
    }
}
