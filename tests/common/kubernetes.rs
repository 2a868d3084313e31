//! `deploy/kubernetes/train.yaml` as its documents, and its container as Kubernetes would start it.

#![allow(dead_code, unreachable_pub, reason = "every test program uses its own part of this")]

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::machines::deploy;

/// The documents of the file.
pub fn documents() -> Vec<Value> {
    let text = std::fs::read_to_string(deploy("kubernetes/train.yaml")).unwrap();
    serde_norway::Deserializer::from_str(&text).map(|one| Value::deserialize(one).unwrap()).collect()
}

/// The one document of a kind.
pub fn document(kind: &str) -> Value {
    let mut of_kind: Vec<_> = documents().into_iter().filter(|document| document["kind"] == kind).collect();
    assert_eq!(of_kind.len(), 1, "{kind}");
    of_kind.remove(0)
}

/// The pods' only container.
pub fn container() -> Value {
    let job = document("Job");
    let containers = job["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 1);
    containers[0].clone()
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|one| one.as_str().unwrap().to_owned()).collect()
}

/// Its command and its arguments, and its variables with that of the pod's place, `$(NAME)` in words replaced as
/// Kubernetes does.
pub fn started(index: u32, change: impl Fn(&str, &str) -> Option<String>) -> Started {
    let container = container();
    let mut variables = BTreeMap::from([("JOB_COMPLETION_INDEX".to_owned(), index.to_string())]);
    for variable in container["env"].as_array().unwrap() {
        let [name, value] = ["name", "value"].map(|key| variable[key].as_str().unwrap());
        let value = change(name, value).unwrap_or_else(|| value.to_owned());
        variables.insert(name.to_owned(), value);
    }
    let expand = |mut word: String| {
        for (name, value) in &variables {
            word = word.replace(&format!("$({name})"), value);
        }
        assert!(!word.contains("$("), "nothing says what {word} is");
        word
    };
    let [command, args] =
        ["command", "args"].map(|key| strings(&container[key]).into_iter().map(expand).collect());
    Started { command, args, variables }
}

/// What a pod's container runs.
pub struct Started {
    pub command: Vec<String>,
    pub args: Vec<String>,
    pub variables: BTreeMap<String, String>,
}

/// The word after `flag`.
pub fn after<'a>(words: &'a [String], flag: &str) -> &'a str {
    let at = words.iter().position(|word| word == flag).unwrap_or_else(|| panic!("no {flag} in {words:?}"));
    &words[at + 1]
}
