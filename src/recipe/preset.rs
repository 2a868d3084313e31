//! The presets: recipes as TOML, embedded in the program. Their text is the folder `presets/`.

/// Every preset by name, in the order in which they are shown.
const PRESETS: &[(&str, &str)] = &[
    ("default", include_str!("../../presets/default.toml")),
    ("photos", include_str!("../../presets/photos.toml")),
];

/// The names of the presets.
pub fn preset_names() -> impl Iterator<Item = &'static str> {
    PRESETS.iter().map(|(name, _)| *name)
}

/// The TOML text of a preset, or `None` if there is none of that name.
///
/// ```
/// assert!(burn_sprint::recipe::preset_toml("default").is_some());
/// ```
pub fn preset_toml(name: &str) -> Option<&'static str> {
    PRESETS.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}
