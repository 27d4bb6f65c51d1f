"""What rows and columns are called, in English and Japanese."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from spotcache_cost.ways import Row

_ENGINES = {"valkey": "Valkey", "redis": "Redis"}
_ROWS = {
    "en": {
        "ec2_spot_always": "this, {type} Spot ({gib} GiB)",
        "ec2_spot_working": "this, {type} Spot, working hours",
        "ec2_spot_lean": "this, {type} Spot, working hours, lean",
        "ec2_always": "this, {type} on demand ({gib} GiB)",
        "ec2_bare": "EC2 {type}, the host alone",
        "ec2_spot_bare": "EC2 {type} Spot, the host alone",
        "serverless": "ElastiCache serverless {engine}, {gib} GB",
        "elasticache": "ElastiCache {engine}, {type} ({gib} GiB)",
        "fargate": "Fargate, {type} (vCPU/GB)",
        "fargate_spot": "Fargate Spot, {type} (vCPU/GB)",
    },
    "ja": {
        "ec2_spot_always": "本プロジェクト、{type} スポット（{gib} GiB）",
        "ec2_spot_working": "本プロジェクト、{type} スポット、営業時間のみ",
        "ec2_spot_lean": "本プロジェクト、{type} スポット、営業時間のみ、節約設定",
        "ec2_always": "本プロジェクト、{type} オンデマンド（{gib} GiB）",
        "ec2_bare": "EC2 {type}、ホストのみ",
        "ec2_spot_bare": "EC2 {type} スポット、ホストのみ",
        "serverless": "ElastiCache Serverless {engine}、{gib} GB",
        "elasticache": "ElastiCache {engine}、{type}（{gib} GiB）",
        "fargate": "Fargate、{type}（vCPU/GB）",
        "fargate_spot": "Fargate スポット、{type}（vCPU/GB）",
    },
}
_COLUMNS = {
    "en": {
        "compute": "compute",
        "disks": "disks",
        "backups": "backups",
        "names": "DNS",
        "requests": "requests",
        "network": "network",
        "other": "functions",
        "rest": "DNS, requests, rest",
        "usd": "USD a month",
    },
    "ja": {
        "compute": "計算",
        "disks": "ディスク",
        "backups": "バックアップ",
        "names": "DNS",
        "requests": "リクエスト",
        "network": "ネットワーク",
        "other": "関数",
        "rest": "DNS・リクエスト・その他",
        "usd": "月額（米ドル）",
    },
}
LANGUAGES = tuple(_ROWS)


def name(row: Row, language: str = "en") -> str:
    """What a row is called."""
    values = {**row.values, "engine": _ENGINES.get(row.values.get("engine", ""), "")}
    return _ROWS[language][row.key].format(**values)


def column(key: str, language: str = "en") -> str:
    """What a column is called."""
    return _COLUMNS[language][key]
