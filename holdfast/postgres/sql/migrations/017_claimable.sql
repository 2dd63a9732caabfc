-- Whether stored arguments fit the parameters that a process has published for a workflow (registrations.py,
-- arguments_of). Arguments that are no JSON object (a pickle), and workflows without published parameters, fit: a
-- process then finds out when it runs the workflow. `json`, not `jsonb`: it accepts every text that a client may
-- have stored, and builds no value.
CREATE FUNCTION ops.arguments_fit(inputs text, takes jsonb) RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    stored json;
    positional json;
    positions integer := 0;
    named text[] := '{}';
    by_name text[];
    names text[];
BEGIN
    IF takes IS NULL OR inputs IS NULL OR left(inputs, 1) <> '{' THEN
        RETURN true;
    END IF;
    stored := inputs::json;
    -- The second form is that of a tick (values.py has the tags).
    positional := coalesce(stored -> 'positionalArgs', stored -> 'args' -> '$py:tuple', stored -> 'args');
    IF json_typeof(positional) = 'array' THEN
        positions := json_array_length(positional);
        IF takes ? 'tick' AND stored -> 'args' IS NOT NULL THEN
            positions := least(positions, 1);
        END IF;
    ELSIF positional IS NULL THEN
        RETURN true;
    END IF;
    IF json_typeof(coalesce(stored -> 'namedArgs', stored -> 'kwargs')) = 'object' THEN
        named := ARRAY(SELECT json_object_keys(coalesce(stored -> 'namedArgs', stored -> 'kwargs')));
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
