"""DuckDB's functions by DuckDB's meaning: calls that sqlglot would translate from another dialect are kept from it.

sqlglot knows most functions of all dialects and rewrites them on the way from PostgreSQL to DuckDB: `xor(1, 3)` becomes a logical
XOR, `regexp_extract(s, r, 1)` loses its group, `date_diff('day', a, b)` its order. Where DuckDB has a function of that name, that one
is meant. So before parsing such calls get a name sqlglot does not know (`hide`), and afterwards their own again (`reveal`).
Called by `reading` and `normal`. Names that only PostgreSQL has (`to_char`) are translated; those with a grammar of their own
(`extract(… FROM …)`, `trim(BOTH …)`) are read by sqlglot. A test compares with duckdb_functions().
"""

from __future__ import annotations

from sqlglot.tokens import Token, TokenType

__all__ = ["AGGREGATES", "NATIVE", "hide", "reveal"]

_PREFIX = "khonsu_native__"

NATIVE = frozenset(
    """
    abs acos acosh any_value apply approx_count_distinct approx_quantile approx_top_k arg_max arg_min argmax argmin array_agg
    array_append array_cat array_concat array_contains array_distinct array_filter array_has array_has_all array_intersect
    array_length array_position array_prepend array_reverse array_reverse_sort array_slice array_sort array_to_string ascii asin
    asinh atan atan2 atanh avg bit_and bit_length bit_or bit_xor bool_and bool_or cbrt ceil ceiling char_length character_length
    chr concat concat_ws contains corr cos cosh cot count_if countif covar_pop covar_samp current_database current_schemas
    date_add date_diff date_part date_sub date_trunc datediff datetrunc day dayname dayofmonth dayofweek dayofyear decode
    degrees editdist3 encode ends_with epoch epoch_ms exp factorial first flatten floor format from_base64 from_hex from_json
    gen_random_uuid get_bit get_current_time greatest group_concat hex hour instr isinf isnan isodow jaro_winkler_similarity
    json json_array json_extract json_extract_path json_extract_path_text json_extract_string json_keys json_object json_remove
    json_set json_strip_nulls json_type json_value kurtosis last last_day lcase least left len length levenshtein list
    list_append list_concat list_contains list_cosine_distance list_distance list_distinct list_filter list_has list_has_any
    list_max list_min list_prepend list_reverse_sort list_sort list_transform list_value listagg ln log log10 log2 lower lpad
    ltrim make_date make_time make_timestamp map_from_entries map_keys max_by md5 median min_by minute mod mode month monthname
    now pi pow power quantile quantile_cont quantile_disc quarter radians random range reduce regexp_extract regexp_extract_all
    regexp_full_match regexp_matches regexp_replace regr_avgx regr_avgy regr_count regr_intercept regr_r2 regr_slope regr_sxx
    regr_sxy regr_syy repeat replace reverse right round rpad rtrim second sha1 sha256 sign sin sinh skewness split split_part
    sqrt starts_with stddev stddev_pop stddev_samp str_split str_split_regex strftime string_agg string_split string_split_regex
    string_to_array strpos strptime struct_extract struct_pack substr tan tanh time_bucket to_base64 to_binary to_days to_hex
    today translate trunc typeof ucase unhex unicode upper uuid var_pop var_samp variance version week weekofyear xor year
    """.split()
)
"""What both DuckDB and sqlglot know."""

AGGREGATES = frozenset(
    """
    any_value approx_count_distinct approx_quantile approx_top_k arbitrary arg_max arg_max_null arg_max_nulls_last arg_min
    arg_min_null arg_min_nulls_last argmax argmin array_agg avg bit_and bit_or bit_xor bitstring_agg bool_and bool_or
    combine_aggr corr count count_if count_star countif covar_pop covar_samp decimal_average entropy favg first fsum
    group_concat histogram histogram_exact kahan_sum kurtosis kurtosis_pop last list listagg lttb mad max max_by mean median min
    min_by mode product quantile quantile_cont quantile_disc regr_avgx regr_avgy regr_count regr_intercept regr_r2 regr_slope
    regr_sxx regr_sxy regr_syy reservoir_quantile sem skewness stddev stddev_pop stddev_samp string_agg sum sum_no_overflow
    sumkahan var_pop var_samp variance variant_group_object
    """.split()
)

_OPERANDS = (TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.NUMBER, TokenType.STRING)
_NAMES_FOLLOW = (TokenType.INTO, TokenType.TABLE, TokenType.FROM, TokenType.JOIN, TokenType.WITH, TokenType.ALIAS, TokenType.USING)


def hide(tokens: list[Token]) -> list[Token]:
    """Calls of NATIVE functions under names that mean nothing to sqlglot."""
    result = list(tokens)
    for number in range(len(tokens) - 1):
        token = tokens[number]
        if tokens[number + 1].token_type is TokenType.L_PAREN and token.text.lower() in NATIVE and _is_call(tokens, number):
            name = _PREFIX + token.text.lower()
            result[number] = Token(TokenType.VAR, name, token.line, token.col, token.start, token.end, [])
    return result


def _is_call(tokens: list[Token], number: int) -> bool:
    """Not `* REPLACE (…)`, not `INTO log (…)`, not text."""
    if tokens[number].token_type is TokenType.STRING:
        return False
    if number == 0:
        return True
    before = tokens[number - 1].token_type
    if before is TokenType.STAR:
        return number > 1 and (tokens[number - 2].token_type in (*_OPERANDS, TokenType.VAR, TokenType.IDENTIFIER))
    return before not in (*_OPERANDS, *_NAMES_FOLLOW)


def reveal(name: str) -> str:
    """The name that `hide` hid, or `name`."""
    return name.removeprefix(_PREFIX)
