//! The rules of the house that no compiler checks: how files open, how long they are, who may use whom, that documents
//! point at what is there. Reads the working tree as text.

#![allow(clippy::unwrap_used)]

use std::{
    ffi::OsStr,
    fs,
    path::{Component, Path, PathBuf},
};

/// Lines a file may have before its tests.
const MAX_LINES: usize = 400;
/// Longer files that were there before the rule, with the length that they must not exceed. Only ever shrinks.
const LONGER: &[(&str, usize)] = &[];
/// What each module of burn-sprint may use of the others: arrows run down only.
const ARROWS: &[(&str, &[&str])] = &[
    ("cluster", &[]),
    ("recipe", &[]),
    ("data", &[]),
    ("record", &[]),
    ("prepare", &["data", "error"]),
    ("config", &["cluster", "data", "error", "recipe"]),
    ("bench", &["config", "error", "train"]),
    ("train", &["cluster", "config", "data", "error", "recipe", "record"]),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files below `folder` that end in `extension`, relative to the root, sorted.
fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    fn walk(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                // Nested checkouts and what Cargo and runs leave are not ours to judge.
                if !name.starts_with('.') && name != "target" && name != "runs" {
                    walk(&path, extension, found);
                }
            } else if name.ends_with(extension) {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(folder), extension, &mut found);
    found.sort();
    found.into_iter().map(|path| path.strip_prefix(root()).unwrap().to_owned()).collect()
}

fn read(path: &Path) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// The sources of every crate, without their `tests` folders.
fn sources() -> Vec<PathBuf> {
    ["src", "burn-resnet/src", "burn-kernels/src", "burn-dist/src", "native-tools"]
        .iter()
        .flat_map(|folder| files(folder, ".rs"))
        .collect()
}

/// A file's lines before its unit tests.
fn without_tests(text: &str) -> impl Iterator<Item = &str> {
    text.lines().take_while(|line| *line != "#[cfg(test)]")
}

/// Fails with every complaint at once.
#[track_caller]
fn nothing_in(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn every_source_says_what_it_is() {
    let opens = |path: &PathBuf| read(path).starts_with("//! ");
    let all = [
        "benches",
        "burn-dist/examples",
        "burn-dist/tests",
        "burn-kernels/benches",
        "burn-resnet/benches",
        "examples",
        "tests",
    ];
    let others = all.iter().flat_map(|folder| files(folder, ".rs"));
    let silent = sources().into_iter().chain(others).filter(|path| !opens(path));
    nothing_in(silent.map(|path| format!("{}: must open with //! and what it is", path.display())).collect());
}

#[test]
fn files_stay_short() {
    let mut complaints = Vec::new();
    for path in sources() {
        if path.components().any(|part| ["tests", "tests.rs"].map(OsStr::new).contains(&part.as_os_str())) {
            continue;
        }
        let lines = without_tests(&read(&path)).count();
        let exempt = LONGER.iter().find(|(longer, _)| Path::new(longer) == path);
        let limit = exempt.map_or(MAX_LINES, |(_, limit)| *limit);
        let path = path.display();
        if lines > limit {
            complaints.push(format!("{path}: {lines} lines before its tests, at most {limit}: divide it"));
        } else if exempt.is_some() && lines <= MAX_LINES {
            complaints.push(format!("{path}: {lines} lines: take it off the list of longer ones"));
        }
    }
    let gone = LONGER.iter().filter(|(path, _)| !root().join(path).exists());
    complaints.extend(gone.map(|(path, _)| format!("{path}: is gone: take it off the list of longer ones")));
    nothing_in(complaints);
}

#[test]
fn nothing_is_left_for_later() {
    let words =
        [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("unimplemented", "!"), concat!("todo", "!")];
    let mut complaints = Vec::new();
    for path in files("", ".rs").into_iter().chain(files("", ".md")) {
        for (number, line) in read(&path).lines().enumerate() {
            if let Some(word) = words.iter().find(|word| line.contains(**word)) {
                complaints.push(format!("{}:{}: {word}", path.display(), number + 1));
            }
        }
    }
    nothing_in(complaints);
}

#[test]
fn modules_use_only_what_is_below_them() {
    let mut complaints = Vec::new();
    for (module, below) in ARROWS {
        for path in files(&format!("src/{module}"), ".rs") {
            let text = read(&path);
            for used in modules_used(&text) {
                if used != *module && !below.contains(&used.as_str()) {
                    complaints.push(format!("{}: {module} must not use {used}", path.display()));
                }
            }
        }
    }
    nothing_in(complaints);
}

/// The modules of its crate that a source names, as `crate::module` or in `use crate::{module ..}`.
fn modules_used(text: &str) -> Vec<String> {
    let word =
        |text: &str| text.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect::<String>();
    let code: String = without_tests(text)
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| [line, "\n"])
        .collect();
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        // `$crate`, `mycrate`.
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        let Some(list) = rest.strip_prefix('{') else {
            found.push(word(rest));
            continue;
        };
        let mut depth = 0;
        let mut item = true;
        for (at, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => item = true,
                c if item && c.is_ascii_lowercase() => {
                    found.push(word(&list[at..]));
                    item = false;
                }
                c if !c.is_whitespace() => item = false,
                _ => {}
            }
        }
    }
    found.retain(|module| !module.is_empty());
    found
}

#[test]
fn one_file_names_backends() {
    let constructors = ["flex", "ndarray", "cuda", "wgpu", "vulkan"].map(|name| format!("Device::{name}"));
    let mut complaints = Vec::new();
    for path in files("src", ".rs").into_iter().filter(|path| path != Path::new("src/cli/device.rs")) {
        for line in without_tests(&read(&path)).filter(|line| !line.trim_start().starts_with("//")) {
            if constructors.iter().any(|name| line.contains(name.as_str())) {
                complaints.push(format!("{}: names a backend: {}", path.display(), line.trim()));
            }
        }
    }
    nothing_in(complaints);
}

#[test]
fn links_in_documents_lead_somewhere() {
    let mut complaints = Vec::new();
    for path in files("", ".md") {
        let text = read(&path);
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split([')', ' ']).next().unwrap_or_default();
            let file = target.split('#').next().unwrap_or_default();
            if file.is_empty() || file.contains("://") || file.starts_with("mailto:") {
                continue;
            }
            let place = path.parent().unwrap().join(file);
            let inside = place.components().all(|part| part != Component::RootDir);
            if !inside || !root().join(&place).exists() {
                complaints.push(format!("{}: {target} is not there", path.display()));
            }
        }
    }
    nothing_in(complaints);
}

#[test]
fn tables_of_paths_name_real_ones() {
    for (document, heading) in [("README.md", "## Tour"), ("ARCHITECTURE.md", "## Map")] {
        let text = read(Path::new(document));
        let section = text.split(heading).nth(1).and_then(|rest| rest.split("\n## ").next());
        let section = section.unwrap_or_else(|| panic!("{document} has no `{heading}`"));
        // The first cell of a row, in backticks, several with commas between them.
        let cells = section.lines().filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
        let paths: Vec<_> =
            cells.flat_map(|cell| cell.split(", ")).map(|path| path.trim_matches('`')).collect();
        assert!(paths.len() > 5, "{document}: the table under `{heading}` has {} paths", paths.len());
        let gone = paths.iter().filter(|path| !root().join(path).exists());
        nothing_in(gone.map(|path| format!("{document}: {path} is not there")).collect());
    }
}

#[test]
fn golden_checks_name_their_tests() {
    let text = read(Path::new("ARCHITECTURE.md"));
    let section = text.split("## Golden checks").nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap();
    let rows: Vec<&str> = section.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    let mut complaints = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        if !row.starts_with(&format!("| {} | ", index + 1)) {
            complaints.push(format!("row {}: {row}", index + 1));
        }
        // A path, and the names of tests in it, each in backticks.
        let mut source = String::new();
        for word in row.split('`').skip(1).step_by(2) {
            if word.ends_with(".rs") {
                source = fs::read_to_string(root().join(word)).unwrap_or_default();
            } else if !source.contains(&format!("#[test]\nfn {word}()")) {
                complaints.push(format!("check {}: no test {word}", index + 1));
            }
        }
        if source.is_empty() {
            complaints.push(format!("check {}: no file with its tests", index + 1));
        }
    }
    assert_eq!(rows.len(), 22, "checks");
    nothing_in(complaints);
}
