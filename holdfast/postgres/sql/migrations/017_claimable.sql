-- Whether stored arguments fit the parameters that a process has published for a workflow (registrations.py,
-- arguments_of). Arguments that are no JSON object (a pickle), and workflows without published parameters, fit: a
-- process then finds out when it runs the workflow. `json`, not `jsonb`: it accepts every text that a client may
-- have stored, and builds no value. Each operator on it parses the whole text again, so the text is taken apart once, and
-- a large one fits unread. PARALLEL UNSAFE: before PostgreSQL 17, an EXCEPTION block in a parallel query is an error.
CREATE FUNCTION ops.arguments_fit(inputs text, takes jsonb) RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    part record;
    given_args json;
    given_kwargs json;
    positional_args json;
    named_args json;
    positional json;
    positions integer := 0;
    named text[] := '{}';
    by_name text[];
    names text[];
BEGIN
    IF takes IS NULL OR inputs IS NULL OR octet_length(inputs) > 100000 OR left(inputs, 1) <> '{' THEN
        RETURN true;
    END IF;
    FOR part IN SELECT e.key, e.value FROM json_each(inputs::json) AS e LOOP
        CASE part.key
            WHEN 'args' THEN given_args := part.value;
            WHEN 'kwargs' THEN given_kwargs := part.value;
            WHEN 'positionalArgs' THEN positional_args := part.value;
            WHEN 'namedArgs' THEN named_args := part.value;
            ELSE NULL;
        END CASE;
    END LOOP;
    -- The second form is that of a tick (values.py has the tags).
    positional := coalesce(positional_args, given_args -> '$py:tuple', given_args);
    IF json_typeof(positional) = 'array' THEN
        positions := json_array_length(positional);
        IF takes ? 'tick' AND given_args IS NOT NULL THEN
            positions := least(positions, 1);
        END IF;
    ELSIF positional IS NULL THEN
        RETURN true;
    END IF;
    named_args := coalesce(named_args, given_kwargs);
    IF json_typeof(named_args) = 'object' THEN
        named := ARRAY(SELECT json_object_keys(named_args));
    END IF;
    -- A name of a parameter that takes only a position is that of another argument (**kwargs).
    by_name := ARRAY(SELECT n FROM unnest(named) AS n
                     WHERE n NOT IN (SELECT jsonb_array_elements_text(takes -> 'only_position')));
    names := ARRAY(SELECT jsonb_array_elements_text(takes -> 'names'));
    RETURN (positions <= cardinality(names) OR takes ? 'any_position')
        AND NOT names[:positions] && by_name
        AND (takes ? 'any_name' OR cardinality(by_name) = cardinality(named)
             AND names || ARRAY(SELECT jsonb_array_elements_text(takes -> 'only_named')) @> named)
        AND names[:positions] || by_name @> ARRAY(SELECT jsonb_array_elements_text(takes -> 'needs'));
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN true;
END $$;
