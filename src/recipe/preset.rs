//! The presets: recipes as TOML, embedded in the program. Their text is the folder `presets/`.

/// Every preset by name, in the order in which they are shown.
const PRESETS: &[(&str, &str)] = &[
    ("default", include_str!("../../presets/default.toml")),
    ("photos", include_str!("../../presets/photos.toml")),
    ("cifar10", include_str!("../../presets/cifar10.toml")),
    ("imagenet18-1", include_str!("../../presets/imagenet18-1.toml")),
    ("imagenet18-2", include_str!("../../presets/imagenet18-2.toml")),
    ("imagenet18-4", include_str!("../../presets/imagenet18-4.toml")),
    ("imagenet18-8", include_str!("../../presets/imagenet18-8.toml")),
    ("imagenet18-16", include_str!("../../presets/imagenet18-16.toml")),
    ("imagenet-lars", include_str!("../../presets/imagenet-lars.toml")),
    ("rn50-16ep", include_str!("../../presets/rn50-16ep.toml")),
    ("rn50-32ep", include_str!("../../presets/rn50-32ep.toml")),
    ("rn50-88ep", include_str!("../../presets/rn50-88ep.toml")),
    ("rn50-a3", include_str!("../../presets/rn50-a3.toml")),
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
