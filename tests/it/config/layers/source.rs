//! The dependencies between the files under `src`, from their text: imports, paths, definitions and re-exports.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// One source file without its comments and its tests.
pub(super) struct SourceFile {
    pub(super) path: PathBuf,
    /// The path from the crate's root; empty for `lib.rs`.
    module: Vec<String>,
    pub(super) code: String,
    /// The names that `use` imports, each with its absolute path.
    imports: Vec<(String, Vec<String>)>,
}

pub(super) struct SourceTree {
    files: Vec<SourceFile>,
}

impl SourceFile {
    fn read(path: PathBuf, root: &Path) -> Self {
        let text = fs::read_to_string(&path).expect("source is UTF-8");
        let code: String = without_inline_tests(&text)
            .lines()
            .map(|l| l.split("//").next().unwrap_or_default().to_owned() + "\n")
            .collect();
        let below = path.strip_prefix(root).expect("under src").with_extension("");
        let mut module: Vec<String> = below.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        if module.last().is_some_and(|last| last == "mod") || module == ["lib"] {
            module.pop();
        }
        Self { path, module, code, imports: Vec::new() }
    }

    /// Returns the top-level module of the file.
    pub(super) fn top_module(&self) -> &str {
        self.module.first().map_or("lib", String::as_str)
    }

    /// Returns the path from the crate's root; `None` if it is local or leads to another crate.
    fn absolute(&self, path: &[String], children: &BTreeSet<Vec<String>>) -> Option<Vec<String>> {
        let first = path.first()?;
        if first == "crate" {
            return Some(path[1..].to_vec());
        }
        if first == "super" || first == "self" {
            let ups = path.iter().take_while(|part| *part == "super").count();
            let mut absolute = self.module[..self.module.len().checked_sub(ups)?].to_vec();
            absolute.extend(path.iter().skip_while(|part| *part == "super" || *part == "self").cloned());
            return Some(absolute);
        }
        if let Some((_, target)) = self.imports.iter().find(|(name, _)| name == first) {
            return Some([target, &path[1..]].concat());
        }
        let child = [&self.module[..], &path[..1]].concat();
        children.contains(&child).then(|| [&self.module[..], path].concat())
    }

    fn defines(&self, name: &str) -> bool {
        let kinds = ["struct", "enum", "trait", "type", "fn", "const", "static", "union", "macro_rules!"];
        kinds.iter().any(|kind| {
            self.code.match_indices(&format!("{kind} {name}")).any(|(start, found)| {
                !self.code[start + found.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_')
            })
        })
    }
}

impl SourceTree {
    /// Reads every file under `src` except test files.
    pub(super) fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut paths = Vec::new();
        collect_files(&root, &mut paths);
        paths.sort();
        paths.retain(|path| !path.ends_with("tests.rs") && !path.ends_with("laws.rs"));
        let mut tree = Self { files: paths.into_iter().map(|path| SourceFile::read(path, &root)).collect() };
        let modules = tree.modules();
        for file in &mut tree.files {
            let mut imports = Vec::new();
            for path in use_paths(&file.code) {
                let (path, name) = match path.iter().position(|part| part == "as") {
                    Some(at) => (path[..at].to_vec(), path[at + 1].clone()),
                    None => (path.clone(), path.last().cloned().unwrap_or_default()),
                };
                imports.extend(file.absolute(&path, &modules).map(|absolute| (name, absolute)));
            }
            file.imports = imports;
        }
        tree
    }

    pub(super) fn files(&self) -> &[SourceFile] {
        &self.files
    }

    fn modules(&self) -> BTreeSet<Vec<String>> {
        self.files.iter().map(|file| file.module.clone()).collect()
    }

    /// Returns the file that defines the item at `path`; follows re-exports.
    fn defining_file(&self, path: &[String], depth: usize) -> Option<usize> {
        let longest = (0..=path.len())
            .rev()
            .find_map(|len| self.files.iter().position(|file| file.module == path[..len]).map(|index| (index, len)))?;
        let (index, len) = longest;
        let file = &self.files[index];
        let name = path.get(len)?;
        if file.defines(name) || depth == 0 {
            return Some(index);
        }
        match file.imports.iter().find(|(imported, _)| imported == name) {
            Some((_, target)) => self.defining_file(&[target, &path[len + 1..]].concat(), depth - 1),
            None => Some(index),
        }
    }

    /// Returns groups of files of one module that use each other, each sorted, with the module's name.
    pub(super) fn circles(&self) -> Vec<(String, Vec<String>)> {
        let modules = self.modules();
        let mut reach: Vec<BTreeSet<usize>> = Vec::new();
        for (index, file) in self.files.iter().enumerate() {
            let re_exports: BTreeSet<Vec<String>> = re_exported(&file.code).into_iter().collect();
            let paths = use_paths(&file.code).into_iter().filter(|path| !re_exports.contains(path));
            let used = paths.chain(inline_paths(&file.code)).filter_map(|path| {
                let path: Vec<String> = path.into_iter().take_while(|part| part != "as").collect();
                self.defining_file(&file.absolute(&path, &modules)?, 8)
            });
            reach.push(
                used.filter(|used| *used != index && self.files[*used].top_module() == file.top_module()).collect(),
            );
        }
        let direct = reach.clone();
        loop {
            let next: Vec<BTreeSet<usize>> = reach
                .iter()
                .map(|used| used.iter().flat_map(|u| direct[*u].iter()).chain(used).copied().collect())
                .collect();
            if next == reach {
                break;
            }
            reach = next;
        }
        let name = |index: &usize| {
            let path = self.files[*index].path.strip_prefix(env!("CARGO_MANIFEST_DIR")).expect("in the package");
            path.display().to_string()
        };
        let mut circles = BTreeMap::new();
        for index in (0..self.files.len()).filter(|index| reach[*index].contains(index)) {
            let group: Vec<usize> =
                reach[index].iter().copied().filter(|other| reach[*other].contains(&index)).collect();
            let files = group.iter().map(name).collect();
            circles.entry(group[0]).or_insert((self.files[index].top_module().to_owned(), files));
        }
        circles.into_values().collect()
    }
}

/// Returns the text before the inline tests. A line `mod tests;` does not end it.
fn without_inline_tests(text: &str) -> &str {
    let inline = text
        .match_indices("\n#[cfg(test)]\nmod ")
        .find(|(start, found)| text[start + found.len()..].lines().next().is_some_and(|line| line.ends_with('{')));
    inline.map_or(text, |(start, _)| &text[..start])
}

fn collect_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("src is readable").flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Returns every path that `use` declarations name, with `{}` groups expanded; `x as y` ends in `as`, `y`.
fn use_paths(code: &str) -> Vec<Vec<String>> {
    declarations(code).into_iter().flat_map(|(_, tree)| expand(&tree)).collect()
}

/// Returns the paths that `pub use` re-exports and the file itself may not use.
fn re_exported(code: &str) -> Vec<Vec<String>> {
    let rest: String = code.lines().filter(|line| !line.trim_start().starts_with("use ")).collect();
    let is_used = |name: &String| rest.matches(name.as_str()).count() > 1;
    declarations(code)
        .into_iter()
        .filter(|(public, _)| *public)
        .flat_map(|(_, tree)| expand(&tree))
        .filter(|path| !path.last().is_some_and(is_used))
        .collect()
}

/// Returns the text of each `use` declaration, and whether it is public.
fn declarations(code: &str) -> Vec<(bool, String)> {
    let mut found = Vec::new();
    for (start, _) in code.match_indices("use ") {
        let before = code[..start].rsplit('\n').next().unwrap_or_default().trim();
        if (before.is_empty() || before.starts_with("pub")) && !before.contains("fn ") {
            let tree = code[start + 4..].split(';').next().unwrap_or_default();
            found.push((before.starts_with("pub"), tree.split_whitespace().collect::<Vec<_>>().join(" ")));
        }
    }
    found
}

fn expand(tree: &str) -> Vec<Vec<String>> {
    let tree = tree.trim();
    let Some(open) = tree.find('{') else {
        return vec![tree.replace(" as ", "::as::").split("::").map(|part| part.trim().to_owned()).collect()];
    };
    let prefix: Vec<String> =
        tree[..open].split("::").map(str::trim).filter(|p| !p.is_empty()).map(str::to_owned).collect();
    let inner = tree[open + 1..].trim_end().trim_end_matches('}');
    let inner = &tree[open + 1..open + 1 + inner.len().min(tree.len() - open - 1)];
    let (mut depth, mut items, mut item) = (0, Vec::new(), String::new());
    for c in inner.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                items.push(std::mem::take(&mut item));
                continue;
            }
            _ => {}
        }
        item.push(c);
    }
    // A nested group at the end has lost its brace with the outer one.
    items.push(item.clone() + &"}".repeat(item.matches('{').count() - item.matches('}').count()));
    let items = items.into_iter().filter(|item| !item.trim().is_empty());
    items
        .flat_map(|item| expand(&item))
        .map(|path| prefix.iter().cloned().chain(path.into_iter().filter(|part| part != "self")).collect())
        .collect()
}

/// Returns the paths of two or more names outside `use`.
fn inline_paths(code: &str) -> Vec<Vec<String>> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for line in code.lines().filter(|line| !line.trim_start().trim_start_matches("pub ").starts_with("use ")) {
        for word in line.split(|c: char| !is_name(c) && c != ':').filter(|word| word.contains("::")) {
            let path: Vec<String> = word.trim_matches(':').split("::").map(str::to_owned).collect();
            if path.len() > 1 && path.iter().all(|part| !part.is_empty() && part.chars().all(is_name)) {
                found.push(path);
            }
        }
    }
    found
}

/// Returns the top-level modules that `code` names after `crate::`.
pub(super) fn used_modules(code: &str) -> BTreeSet<String> {
    let ours = |path: Vec<String>| (path.first().is_some_and(|first| first == "crate")).then(|| path.get(1).cloned());
    use_paths(code).into_iter().chain(inline_paths(code)).filter_map(ours).flatten().collect()
}
