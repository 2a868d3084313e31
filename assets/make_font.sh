#!/bin/sh
# Makes Roboto-subset.ttf, the font of curve.png: ASCII and a few signs of Debian's fonts-roboto-unhinted 2:0~20170802-3.
# Needs: apt-get install fonts-roboto-unhinted, pip install fonttools
set -eu
pyftsubset /usr/share/fonts/truetype/roboto/unhinted/RobotoTTF/Roboto-Regular.ttf \
    --unicodes="U+0020-007E,U+00B0,U+00B5,U+00B7,U+00D7,U+2013,U+2014,U+2026,U+2212,U+2265" \
    --layout-features=kern --legacy-kern --no-hinting --output-file="$(dirname "$0")/Roboto-subset.ttf"
