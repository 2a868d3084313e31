//! Slurm's lists: of nodes, `gnode[01-03,10],other` (`man scontrol`, HOSTLIST EXPRESSIONS), and of the tasks on each,
//! `2(x3),1` (`man srun`, SLURM_STEP_TASKS_PER_NODE). Pure.

/// Longest name that a node has: RFC 1035.
const MAX_NAME_BYTES: usize = 255;

/// Why a text is no node list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadNodes {
    #[error("a bracket is missing or one too many")]
    Bracket,
    #[error("{0:?} is no range of numbers")]
    Range(String),
    #[error("a node without a name, or with one longer than {MAX_NAME_BYTES} bytes")]
    Name,
}

/// The nodes of `list`, in its order, the first `nodes_max` of them: a list may stand for more than memory holds. All of
/// the list is checked.
pub(super) fn expand(list: &str, nodes_max: usize) -> Result<Vec<String>, BadNodes> {
    let mut nodes = Vec::new();
    for one in split(list)? {
        let more = expand_one(one, nodes_max)?;
        let room = nodes_max - nodes.len();
        nodes.extend(more.into_iter().take(room));
    }
    Ok(nodes)
}

/// Splits at commas outside of brackets.
fn split(list: &str) -> Result<Vec<&str>, BadNodes> {
    let (mut parts, mut begin, mut in_bracket) = (Vec::new(), 0, false);
    for (at, byte) in list.bytes().enumerate() {
        match byte {
            b'[' if !in_bracket => in_bracket = true,
            b']' if in_bracket => in_bracket = false,
            b'[' | b']' => return Err(BadNodes::Bracket),
            b',' if !in_bracket => {
                parts.push(&list[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    if in_bracket {
        return Err(BadNodes::Bracket);
    }
    parts.push(&list[begin..]);
    Ok(parts)
}

/// `rack[0-1]node[01-16]`: every combination, the last bracket fastest.
fn expand_one(one: &str, nodes_max: usize) -> Result<Vec<String>, BadNodes> {
    let mut names = vec![String::new()];
    let mut rest = one;
    while !rest.is_empty() {
        let literal = rest.find('[').unwrap_or(rest.len());
        let endings = match rest[literal..].strip_prefix('[').and_then(|inner| inner.split_once(']')) {
            Some((ranges, after)) => {
                let endings = numbers(ranges, nodes_max)?;
                let literal = &rest[..literal];
                rest = after;
                endings.into_iter().map(|number| format!("{literal}{number}")).collect()
            }
            None => vec![std::mem::take(&mut rest).to_owned()],
        };
        // The first names come from the first beginnings: what is cut off would not be among them.
        names = names
            .iter()
            .flat_map(|name| endings.iter().map(move |ending| format!("{name}{ending}")))
            .take(nodes_max)
            .collect();
        if names.iter().any(|name| name.len() > MAX_NAME_BYTES) {
            return Err(BadNodes::Name);
        }
    }
    if names.iter().any(String::is_empty) { Err(BadNodes::Name) } else { Ok(names) }
}

/// `01-03,10`: numbers with the leading zeros of each range's beginning.
fn numbers(ranges: &str, numbers_max: usize) -> Result<Vec<String>, BadNodes> {
    let mut numbers = Vec::new();
    for range in ranges.split(',') {
        let bad = || BadNodes::Range(range.chars().take(64).collect());
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let parse = |digits: &str| {
            let is_number = digits.len() <= 18 && digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse::<u64>().ok().filter(|_| is_number)
        };
        let (Some(begin), Some(end)) = (parse(first), parse(last)) else { return Err(bad()) };
        if begin > end {
            return Err(bad());
        }
        let (room, width) = (numbers_max - numbers.len(), first.len());
        numbers.extend((begin..=end).take(room).map(|number| format!("{number:0width$}")));
    }
    Ok(numbers)
}

/// The tasks on the `node`-th node of a list like `2(x3),1`, which is 2 on nodes 0 to 2 and 1 on node 3; `None` if it
/// says nothing of that node.
pub(super) fn tasks_on(list: &str, node: u32) -> Option<u32> {
    let mut before = 0_u32;
    for part in list.split(',') {
        let (tasks, repeat) = match part.split_once("(x") {
            Some((tasks, repeat)) => (tasks, repeat.strip_suffix(')')?.parse().ok()?),
            None => (part, 1),
        };
        before = before.checked_add(repeat)?;
        if node < before {
            return tasks.parse().ok();
        }
    }
    None
}
