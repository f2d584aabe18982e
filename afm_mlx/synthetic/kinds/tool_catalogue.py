"""The functions that generated requests are about: 12 domains, typed arguments, ways to ask.

A function's `asks` hold its required arguments; each of `more` is a sentence that adds an optional
one. `lacking` are requests that leave a required argument out, with the question they call for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from afm_mlx.synthetic.draws import Draw

Value = tuple[str, Any]
"""As a user says it, and as an argument."""

Pool = Callable[[Draw], Value]


@dataclass(frozen=True)
class Parameter:
    """One argument."""

    type: str
    """Of JSON Schema: string, integer, number, boolean, array."""
    about: str
    """Its description."""
    pool: Pool
    """Draws a value."""
    choices: tuple[str, ...] = ()
    """Of an enum."""
    default: Any = None
    """Of an optional argument; None: it has none."""


@dataclass(frozen=True)
class Function:
    """One tool."""

    domain: str
    name: str
    about: str
    """Its description."""
    does: str
    """What it does, after "to"."""
    required: Mapping[str, Parameter]
    asks: Sequence[str]
    optional: Mapping[str, Parameter] = field(default_factory=dict)
    more: Mapping[str, str] = field(default_factory=dict)
    """By optional argument: the sentence that adds it."""
    lacking: Sequence[tuple[str, str]] = ()
    returns: Mapping[str, Pool] = field(default_factory=dict)
    """What it gives back, by key."""
    says: str = ""
    """The answer with what it gave back and the arguments."""

    def schema(self) -> dict[str, Any]:
        """Its declaration, as in OpenAI's API."""
        properties = {
            name: _property(parameter)
            for name, parameter in {**self.required, **self.optional}.items()
        }
        parameters = {
            "type": "object",
            "properties": properties,
            "required": list(self.required),
        }
        function = {"name": self.name, "description": self.about, "parameters": parameters}
        return {"type": "function", "function": function}


def _property(parameter: Parameter) -> dict[str, Any]:
    said: dict[str, Any] = {"type": parameter.type, "description": parameter.about}
    if parameter.type == "array":
        said["items"] = {"type": "string"}
    if parameter.choices:
        said["enum"] = list(parameter.choices)
    if parameter.default is not None:
        said["default"] = parameter.default
    return said


def _of(*values: str) -> Pool:
    return lambda draw: (lambda value: (value, value))(draw.pick(values))


def _whole(first: int, last: int, step: int = 1) -> Pool:
    return lambda draw: (lambda value: (f"{value:,}", value))(draw.between(first, last, step))


def _decimal(first: int, last: int) -> Pool:
    """Numbers with two decimals."""
    return lambda draw: (lambda value: (f"{value:.2f}", value))(
        draw.between(100 * first, 100 * last) / 100
    )


_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip


def _date(draw: Draw) -> Value:
    month, day, year = draw.between(1, 12), draw.between(1, 28), draw.between(2026, 2028)
    said = draw.pick(
        (f"{_MONTHS[month - 1]} {day}, {year}", f"{day} {_MONTHS[month - 1]} {year}",
         f"{year}-{month:02}-{day:02}")
    )  # fmt: skip
    return said, f"{year}-{month:02}-{day:02}"


def _time(draw: Draw) -> Value:
    hour, minute = draw.between(7, 21), draw.pick((0, 15, 30, 45))
    twelve = f"{(hour - 1) % 12 + 1}:{minute:02} {'am' if hour < 12 else 'pm'}"
    return draw.pick((twelve, f"{hour:02}:{minute:02}")), f"{hour:02}:{minute:02}"


def _code(prefix: str) -> Pool:
    letters = "ABCDEFGHJKLMNPQRSTUVWXYZ"

    def made(draw: Draw) -> Value:
        text = f"{prefix}{draw.pick(letters)}{draw.pick(letters)}{draw.between(100, 9_999)}"
        return text, text

    return made


def _list(*values: str) -> Pool:
    def made(draw: Draw) -> Value:
        some = draw.some(values, draw.between(2, 3))
        return ", ".join(some[:-1]) + f" and {some[-1]}", some

    return made


def _email(draw: Draw) -> Value:
    first, last = draw.pick(_FIRST).lower(), draw.pick(_LAST).lower()
    text = f"{first}.{last}@example.{draw.pick(('com', 'org', 'net'))}"
    return text, text


_FIRST = (
    "Anna", "Bilal", "Carla", "David", "Emma", "Felix", "Hana", "Igor", "Julia", "Kofi", "Lena",
    "Mateo", "Nora", "Omar", "Paula", "Rafael", "Sofia", "Tariq", "Wanda", "Yusuf",
)  # fmt: skip
_LAST = (
    "Adler", "Brook", "Costa", "Diaz", "Evans", "Fischer", "Garcia", "Haddad", "Ito", "Jansen",
    "Kumar", "Lopez", "Moreau", "Novak", "Okafor", "Petrov", "Rossi", "Silva", "Tanaka", "Weber",
)  # fmt: skip
_CITIES = (
    "Lisbon", "Oslo", "Nairobi", "Osaka", "Toronto", "Lima", "Hanoi", "Dublin", "Krakow", "Seville",
    "Austin", "Perth", "Montreal", "Bergen", "Accra", "Quito", "Zurich", "Athens", "Boston",
    "Helsinki", "Marrakesh", "Kyoto", "Vienna", "Porto",
)  # fmt: skip


def _person(draw: Draw) -> Value:
    text = f"{draw.pick(_FIRST)} {draw.pick(_LAST)}"
    return text, text


_city = _of(*_CITIES)
_yes = lambda said: lambda draw: (said, True)  # noqa: E731


def _p(type_: str, about: str, pool: Pool, default: Any = None) -> Parameter:
    return Parameter(type_, about, pool, (), default)


_SAID = {
    "pm2_5": "PM2.5", "pm10": "PM10", "no2": "NO2", "atm": "ATM", "pdf": "PDF", "ozone": "ozone",
    "english": "English", "spanish": "Spanish", "german": "German", "japanese": "Japanese",
    "french": "French", "italian": "Italian", "korean": "Korean", "arabic": "Arabic",
    "thai": "Thai", "indian": "Indian", "mexican": "Mexican",
}  # fmt: skip


def _e(about: str, *choices: str, default: str | None = None) -> Parameter:
    """An argument with a few values, and how people say these."""

    def drawn(draw: Draw) -> Value:
        value = draw.pick(choices)
        return _SAID.get(value, value.replace("_", " ")), value

    return Parameter("string", about, drawn, choices, default)


_CITY = _p("string", "Name of the city.", _city)
_DATE = _p("string", "Date, as YYYY-MM-DD.", _date)
_TIME = _p("string", "Time of day, as HH:MM in 24 hours.", _time)
_PERSON = _p("string", "Full name of the person.", _person)
_ROOMS = ("kitchen", "bedroom", "living_room", "office", "hallway", "garage")

FUNCTIONS = (
    # Weather
    Function(
        "weather", "get_current_weather", "Current weather at a place.", "check the weather",
        {"city": _CITY},
        ("What is the weather like in {city} right now?", "Is it raining in {city} at the moment?",
         "How warm is it in {city} today?"),
        {"units": _e("Units of the temperature.", "celsius", "fahrenheit", default="celsius")},
        {"units": "Give me the temperature in {units}."},
        (("How's the weather?", "Which city do you mean?"),
         ("Is it cold outside?", "For which city should I look that up?")),
        {"temperature": _whole(-5, 35), "sky": _of("clear", "cloudy", "light rain", "snow")},
        "In {city} it is {temperature} degrees, with {sky}.",
    ),
    Function(
        "weather", "get_weather_forecast", "Weather forecast for the coming days.",
        "get a weather forecast",
        {"city": _CITY, "days": _p("integer", "Number of days, 1 to 10.", _whole(2, 10))},
        ("What will the weather be in {city} over the next {days} days?",
         "Give me a {days}-day forecast for {city}.",
         "I'm packing for {days} days in {city}. What weather should I expect?"),
    ),
    Function(
        "weather", "get_air_quality", "Air quality index of a city.", "look up air quality",
        {"city": _CITY},
        ("How good is the air in {city}?", "What's the air quality index in {city}?"),
        {"pollutant": _e("One pollutant.", "pm2_5", "pm10", "ozone", "no2")},
        {"pollutant": "I only need the value for {pollutant}."},
        returns={"index": _whole(12, 180)},
        says="The air quality index in {city} is {index}.",
    ),
    Function(
        "weather", "get_sun_times", "Times of sunrise and sunset on a date.",
        "look up sunrise and sunset",
        {"city": _CITY, "date": _DATE},
        ("When does the sun rise in {city} on {date}?", "Tell me when sunset is in {city} on {date}.",
         "I want to photograph the sunrise in {city} on {date}. When is it?"),
        returns={"sunrise": _of("05:42", "06:13", "06:58", "07:21"),
                 "sunset": _of("17:04", "18:47", "19:39", "21:16")},
        says="In {city} on {date} the sun rises at {sunrise} and sets at {sunset}.",
    ),
    Function(
        "weather", "get_pollen_level", "Pollen level for people with allergies.",
        "check pollen levels",
        {"city": _CITY, "plant": _e("Kind of pollen.", "birch", "grass", "ragweed", "olive")},
        ("How high is the {plant} pollen level in {city}?",
         "I'm allergic to {plant} pollen. How bad is it in {city}?"),
    ),
    # Calendar
    Function(
        "calendar", "create_event", "Adds an event to the calendar.", "add calendar events",
        {"title": _p("string", "Title of the event.", _of(
            "Dentist", "Team lunch", "Piano lesson", "Budget review", "Yoga class", "Book club",
            "Parent evening", "Design workshop")),
         "date": _DATE, "time": _TIME},
        ("Put '{title}' in my calendar on {date} at {time}.",
         "Add an event called '{title}' for {date}, {time}.",
         "Please schedule '{title}' on {date} at {time}."),
        {"duration_minutes": _p("integer", "Length in minutes.", _whole(30, 120, 15), 60),
         "location": _p("string", "Where it is.", _of(
             "Room 204", "Cafe Lindgren", "the town hall", "Studio 5"))},
        {"duration_minutes": "It takes {duration_minutes} minutes.",
         "location": "The location is {location}."},
        (("Add a dentist appointment to my calendar.", "On what date and at what time is it?"),),
    ),
    Function(
        "calendar", "list_events", "Events of one day.", "list calendar events",
        {"date": _DATE},
        ("What's in my calendar on {date}?", "Do I have anything planned for {date}?",
         "Show me my appointments on {date}."),
    ),
    Function(
        "calendar", "move_event", "Moves an event to another date or time.", "move calendar events",
        {"event_id": _p("string", "Id of the event.", _code("ev-")), "new_date": _DATE},
        ("Move event {event_id} to {new_date}.", "Please reschedule {event_id} for {new_date}."),
        {"new_time": _TIME},
        {"new_time": "The new time is {new_time}."},
    ),
    Function(
        "calendar", "cancel_event", "Cancels an event.", "cancel calendar events",
        {"event_id": _p("string", "Id of the event.", _code("ev-"))},
        ("Cancel event {event_id}.", "I can't make it to {event_id}, please cancel it.",
         "Take {event_id} off my calendar."),
        {"notify_guests": _p("boolean", "Tell the guests.", _yes("yes"), False)},
        {"notify_guests": "Let the guests know, too."},
    ),
    Function(
        "calendar", "find_free_slot", "Finds a free slot in a day.", "find free time",
        {"date": _DATE, "duration_minutes": _p("integer", "Length in minutes.", _whole(15, 120, 15))},
        ("Find me {duration_minutes} free minutes on {date}.",
         "When on {date} do I have {duration_minutes} minutes free?"),
        returns={"start": _of("09:15", "11:30", "14:00", "16:45")},
        says="On {date} you have {duration_minutes} minutes free from {start}.",
    ),
    # Messages
    Function(
        "messages", "send_email", "Sends an email.", "send emails",
        {"to": _p("string", "Address of the recipient.", _email),
         "subject": _p("string", "Subject.", _of(
             "Invoice for May", "Meeting notes", "Holiday plans", "Contract draft",
             "Change of address", "Thank you")),
         "body": _p("string", "Text of the message.", _of(
             "Please find the details below.", "I will be ten minutes late.",
             "Could you confirm by Friday?", "It was good to see you."))},
        ("Email {to} with the subject '{subject}' and the text '{body}'",
         "Send a mail to {to}. Subject: '{subject}'. Text: '{body}'"),
        {"priority": _e("Priority.", "low", "normal", "high", default="normal")},
        {"priority": "Mark it as {priority} priority."},
        (("Send an email saying that I'll be late.", "To which address should I send it?"),),
    ),
    Function(
        "messages", "send_text", "Sends a text message to a phone number.", "send text messages",
        {"number": _p("string", "Phone number.", _of(
            "+1-202-555-0143", "+44-20-7946-0958", "+1-202-555-0187", "+44-20-7946-0112")),
         "text": _p("string", "The message.", _of(
             "On my way", "Running late, sorry", "Happy birthday!", "Call me when you can"))},
        ("Text '{text}' to {number}.", "Send {number} a message that says '{text}'.",
         "Please message {number}: '{text}'"),
    ),
    Function(
        "messages", "search_emails", "Searches the mailbox.", "search emails",
        {"query": _p("string", "Words to look for.", _of(
            "train tickets", "insurance", "garden party", "lease renewal", "warranty"))},
        ("Find my emails about {query}.", "Search my mailbox for '{query}'.",
         "Which emails mention {query}?"),
        {"sender": _p("string", "Only from this address.", _email),
         "limit": _p("integer", "Most results.", _whole(5, 50, 5), 10)},
        {"sender": "Only those from {sender}.", "limit": "At most {limit} results, please."},
    ),
    Function(
        "messages", "mark_as_read", "Marks a message as read.", "mark messages as read",
        {"message_id": _p("string", "Id of the message.", _code("msg-"))},
        ("Mark {message_id} as read.", "I've seen {message_id}, mark it as read, please."),
    ),
    Function(
        "messages", "find_contact", "Looks a person up in the contacts.", "look up contacts",
        {"name": _PERSON},
        ("What is {name}'s email address?", "Look up {name} in my contacts.",
         "I need the contact details of {name}."),
        returns={"email": _email, "city": _city},
        says="{name}'s email address is {email}.",
    ),
    # Travel
    Function(
        "travel", "search_flights", "Finds flights between two cities.", "search flights",
        {"origin": _CITY, "destination": _CITY, "date": _DATE},
        ("Find flights from {origin} to {destination} on {date}.",
         "I need to fly from {origin} to {destination} on {date}.",
         "Which flights go from {origin} to {destination} on {date}?"),
        {"cabin": _e("Cabin class.", "economy", "premium", "business", default="economy"),
         "max_stops": _p("integer", "Most stops.", _whole(1, 2))},
        {"cabin": "In {cabin} class.", "max_stops": "The most stops I accept: {max_stops}."},
        (("Find me a flight to Oslo.", "From which city, and on what date?"),
         ("I want to fly somewhere warm next month.",
          "Where do you want to fly from and to, and on what date?")),
    ),
    Function(
        "travel", "book_flight", "Books a flight that was found.", "book flights",
        {"flight_id": _p("string", "Id of the flight.", _code("F-")), "passenger": _PERSON},
        ("Book flight {flight_id} for {passenger}.", "Reserve a seat on {flight_id} for {passenger}."),
        {"seat": _e("Kind of seat.", "window", "aisle", "middle")},
        {"seat": "If possible, take the {seat} seat."},
    ),
    Function(
        "travel", "search_hotels", "Finds hotels in a city.", "search hotels",
        {"city": _CITY, "check_in": _DATE, "nights": _p("integer", "Nights.", _whole(2, 14))},
        ("Find a hotel in {city} from {check_in} for {nights} nights.",
         "I'm staying in {city} for {nights} nights from {check_in} and need a hotel."),
        {"max_price": _p("number", "Highest price per night.", _whole(60, 300, 10)),
         "breakfast": _p("boolean", "With breakfast.", _yes("yes"), False)},
        {"max_price": "It should cost no more than {max_price} a night.",
         "breakfast": "Breakfast must be included."},
    ),
    Function(
        "travel", "get_train_times", "Departure times of trains.", "look up trains",
        {"origin": _CITY, "destination": _CITY},
        ("When do trains leave from {origin} for {destination}?",
         "Show me the train times from {origin} to {destination}."),
        {"after": _TIME},
        {"after": "Only those that leave after {after}."},
        returns={"next": _of("08:05", "10:36", "13:20", "17:52")},
        says="The next train from {origin} to {destination} leaves at {next}.",
    ),
    Function(
        "travel", "rent_car", "Reserves a rental car.", "rent cars",
        {"city": _CITY, "start": _DATE, "days": _p("integer", "Days.", _whole(2, 21))},
        ("Rent a car in {city} from {start} for {days} days.",
         "I need a rental car in {city}, starting {start}, for {days} days."),
        {"size": _e("Size of the car.", "small", "medium", "large", "van")},
        {"size": "A {size} one would be best."},
    ),
    Function(
        "travel", "get_visa_rules", "Whether a visa is needed.", "check visa rules",
        {"nationality": _p("string", "Country of the passport.", _of(
            "Brazil", "Canada", "Ghana", "India", "Norway", "Turkey")),
         "destination": _p("string", "Country to visit.", _of(
             "Japan", "Kenya", "Mexico", "Portugal", "Vietnam", "Egypt"))},
        ("Does somebody with a passport of {nationality} need a visa for {destination}?",
         "What are the visa rules for {destination} with a passport of {nationality}?"),
    ),
    # Money
    Function(
        "money", "convert_currency", "Converts an amount of money.", "convert currencies",
        {"amount": _p("number", "Amount.", _whole(20, 5_000, 10)),
         "source": _e("From.", "USD", "EUR", "GBP", "JPY", "CHF"),
         "target": _e("To.", "INR", "CAD", "SEK", "BRL", "AUD")},
        ("How much is {amount} {source} in {target}?", "Convert {amount} {source} to {target}.",
         "I have {amount} {source}. What would that be in {target}?"),
        lacking=(("Convert my dollars to Swedish krona.", "How many dollars are it?"),),
        returns={"result": _decimal(50, 9_000)},
        says="{amount} {source} are {result} {target}.",
    ),
    Function(
        "money", "get_stock_price", "Latest price of a stock.", "look up stock prices",
        {"symbol": _p("string", "Ticker symbol.", _of("AAPL", "NVDA", "SAP", "TM", "SHEL", "NVO"))},
        ("What is {symbol} trading at?", "Get me the latest price of {symbol}.",
         "How much is one share of {symbol}?"),
        returns={"price": _decimal(20, 900)},
        says="{symbol} is trading at {price}.",
    ),
    Function(
        "money", "transfer_money", "Transfers money between accounts.", "transfer money",
        {"to_account": _p("string", "Account that receives.", _code("ACC-")),
         "amount": _p("number", "Amount.", _decimal(5, 900))},
        ("Transfer {amount} to {to_account}.", "Send {amount} to the account {to_account}."),
        {"memo": _p("string", "Purpose.", _of("rent", "concert tickets", "groceries", "refund"))},
        {"memo": "As the memo, put '{memo}'."},
        (("Transfer 50 to my landlord.", "What is the landlord's account number?"),),
    ),
    Function(
        "money", "get_balance", "Balance of an account.", "check account balances",
        {"account": _e("Which account.", "checking", "savings", "joint")},
        ("How much is in my {account} account?", "What's the balance of the {account} account?"),
        returns={"balance": _decimal(100, 9_000)},
        says="Your {account} account holds {balance}.",
    ),
    Function(
        "money", "compute_loan_payment", "Monthly payment of a loan.", "compute loan payments",
        {"principal": _p("number", "Amount borrowed.", _whole(5_000, 400_000, 5_000)),
         "annual_rate": _p("number", "Interest per year, in percent.", _decimal(1, 9)),
         "years": _p("integer", "Years.", _whole(2, 30))},
        ("What is the monthly payment for a loan of {principal} at {annual_rate}% over {years} years?",
         "If I borrow {principal} for {years} years at {annual_rate}%, what do I pay each month?"),
    ),
    Function(
        "money", "split_bill", "Splits a bill among people.", "split bills",
        {"total": _p("number", "Total of the bill.", _decimal(20, 400)),
         "people": _p("integer", "Number of people.", _whole(2, 9))},
        ("Split a bill of {total} among {people} people.",
         "The bill is {total} and there are {people} of us. What does each pay?"),
        {"tip_percent": _p("number", "Tip in percent.", _whole(5, 25, 5), 0)},
        {"tip_percent": "Add a tip of {tip_percent}%."},
    ),
    # Home
    Function(
        "home", "set_thermostat", "Sets the temperature of a room.", "set the thermostat",
        {"room": _e("Room.", *_ROOMS), "celsius": _p("number", "Temperature.", _whole(16, 25))},
        ("Set the {room} to {celsius} degrees.", "Make it {celsius} degrees in the {room}.",
         "I'd like the {room} at {celsius} degrees."),
        lacking=(("Make it warmer in here.", "Which room, and what temperature?"),),
    ),
    Function(
        "home", "switch_lights", "Turns lights on or off.", "switch lights",
        {"room": _e("Room.", *_ROOMS), "state": _e("On or off.", "on", "off")},
        ("Turn {state} the lights in the {room}.", "Lights {state} in the {room}, please."),
        {"brightness": _p("integer", "Percent.", _whole(10, 100, 10), 100)},
        {"brightness": "Set the brightness to {brightness}%."},
        (("Turn on the light.", "In which room?"),),
    ),
    Function(
        "home", "lock_door", "Locks or unlocks a door.", "lock doors",
        {"door": _e("Door.", "front", "back", "garage", "balcony"),
         "action": _e("What to do.", "lock", "unlock")},
        ("Please {action} the {door} door.", "Can you {action} the {door} door?"),
    ),
    Function(
        "home", "start_vacuum", "Starts the robot vacuum.", "start the vacuum",
        {"room": _e("Room.", *_ROOMS)},
        ("Vacuum the {room}.", "Send the robot vacuum to the {room}.", "The {room} needs vacuuming."),
        {"mode": _e("Mode.", "quiet", "standard", "turbo", default="standard")},
        {"mode": "Use the {mode} mode."},
    ),
    Function(
        "home", "set_alarm", "Sets an alarm.", "set alarms",
        {"time": _TIME},
        ("Wake me at {time}.", "Set an alarm for {time}.", "I need an alarm at {time}."),
        {"repeat": _e("When it repeats.", "never", "daily", "weekdays", "weekends", default="never")},
        {"repeat": "How it repeats: {repeat}."},
        (("Wake me up tomorrow.", "At what time?"),),
    ),
    # Music and film
    Function(
        "media", "play_music", "Plays music of an artist.", "play music",
        {"artist": _p("string", "Artist.", _of(
            "Nina Simone", "Miles Davis", "Fela Kuti", "Clara Schumann", "Johann Sebastian Bach",
            "Ella Fitzgerald"))},
        ("Play something by {artist}.", "I'd like to hear {artist}.", "Put on some {artist}."),
        {"shuffle": _p("boolean", "In random order.", _yes("yes"), False),
         "volume": _p("integer", "0 to 100.", _whole(10, 90, 10))},
        {"shuffle": "Shuffle it.", "volume": "At volume {volume}."},
    ),
    Function(
        "media", "search_movies", "Finds films by genre.", "search films",
        {"genre": _e("Genre.", "comedy", "drama", "thriller", "documentary", "animation")},
        ("Recommend a {genre} film.", "Which {genre} films could I watch?",
         "Find me a good {genre} to watch tonight."),
        {"year_from": _p("integer", "Not older than this.", _whole(1960, 2020, 10)),
         "max_minutes": _p("integer", "Longest duration.", _whole(80, 180, 10))},
        {"year_from": "It should be from {year_from} or later.",
         "max_minutes": "Nothing longer than {max_minutes} minutes."},
    ),
    Function(
        "media", "add_to_playlist", "Adds a song to a playlist.", "change playlists",
        {"song": _p("string", "Title.", _of(
            "Blue in Green", "Feeling Good", "Clair de Lune", "Gymnopedie No. 1", "Take Five")),
         "playlist": _p("string", "Playlist.", _of(
             "Morning", "Focus", "Road trip", "Dinner", "Quiet evening"))},
        ("Add '{song}' to my '{playlist}' playlist.", "Put '{song}' on the playlist '{playlist}'."),
    ),
    Function(
        "media", "get_lyrics", "Lyrics of a song.", "look up lyrics",
        {"song": _p("string", "Title.", _of("Feeling Good", "Summertime", "Autumn Leaves", "Danny Boy"))},
        ("What are the lyrics of '{song}'?", "Show me the words to '{song}'."),
        {"artist": _p("string", "Artist.", _of("Nina Simone", "Ella Fitzgerald", "Eva Cassidy"))},
        {"artist": "I mean the version by {artist}."},
    ),
    Function(
        "media", "find_podcast", "Finds podcasts about a topic.", "find podcasts",
        {"topic": _p("string", "Topic.", _of(
            "astronomy", "gardening", "chess", "medieval history", "ocean life", "architecture"))},
        ("Find a podcast about {topic}.", "Is there a good podcast on {topic}?",
         "I'd like to listen to something about {topic}. Any podcasts?"),
        {"language": _e("Language.", "english", "spanish", "german", "japanese", default="english")},
        {"language": "In {language}, please."},
    ),
    # Food
    Function(
        "food", "search_recipes", "Finds recipes with ingredients.", "search recipes",
        {"ingredients": _p("array", "Ingredients to use.", _list(
            "rice", "tomatoes", "chickpeas", "spinach", "eggs", "potatoes", "mushrooms", "lentils"))},
        ("What can I cook with {ingredients}?", "Find a recipe that uses {ingredients}.",
         "I have {ingredients} at home. Any recipe?"),
        {"diet": _e("Diet.", "vegetarian", "vegan", "gluten_free"),
         "max_minutes": _p("integer", "Longest time to cook.", _whole(15, 90, 15))},
        {"diet": "It must be {diet}.", "max_minutes": "I have {max_minutes} minutes."},
    ),
    Function(
        "food", "find_restaurant", "Finds restaurants in a city.", "find restaurants",
        {"city": _CITY, "cuisine": _e("Cuisine.", "italian", "thai", "indian", "mexican", "japanese")},
        ("Find a good {cuisine} restaurant in {city}.",
         "Where can I eat {cuisine} food in {city}?",
         "I'm hungry for {cuisine} food and I'm in {city}."),
        {"price": _e("Price range.", "cheap", "moderate", "expensive")},
        {"price": "Something {price}, if there is."},
    ),
    Function(
        "food", "book_table", "Books a table.", "book tables",
        {"restaurant_id": _p("string", "Id of the restaurant.", _code("R-")), "date": _DATE,
         "time": _TIME, "people": _p("integer", "Number of people.", _whole(2, 12))},
        ("Book a table for {people} at {restaurant_id} on {date} at {time}.",
         "Reserve {restaurant_id} for {people} people, {date}, {time}."),
        lacking=(("Book a table for two tonight.", "At which restaurant, and at what time?"),),
    ),
    Function(
        "food", "get_nutrition", "Nutrients of a food.", "look up nutrition facts",
        {"food": _p("string", "The food.", _of("almonds", "oat milk", "avocado", "salmon", "tofu")),
         "grams": _p("number", "Amount in grams.", _whole(30, 500, 10))},
        ("How many calories do {grams} grams of {food} have?",
         "Give me the nutrition facts for {grams} g of {food}."),
        returns={"calories": _whole(40, 900)},
        says="{grams} grams of {food} have {calories} calories.",
    ),
    Function(
        "food", "order_groceries", "Orders groceries for delivery.", "order groceries",
        {"items": _p("array", "What to order.", _list(
            "milk", "bread", "apples", "coffee", "butter", "pasta", "olive oil")),
         "date": _DATE},
        ("Order {items} for delivery on {date}.", "Please have {items} delivered on {date}."),
    ),
    # Health and sport
    Function(
        "health", "log_workout", "Records a workout.", "record workouts",
        {"activity": _e("Activity.", "running", "cycling", "swimming", "rowing", "yoga"),
         "minutes": _p("integer", "Duration.", _whole(10, 120, 5))},
        ("Log {minutes} minutes of {activity}.", "I did {minutes} minutes of {activity}, write it down.",
         "Record a workout: {activity}, {minutes} minutes."),
        {"distance_km": _p("number", "Distance in kilometers.", _decimal(1, 12))},
        {"distance_km": "The distance was {distance_km} km."},
        (("Log my workout.", "What did you do, and for how many minutes?"),),
    ),
    Function(
        "health", "compute_bmi", "Body mass index.", "compute the body mass index",
        {"weight_kg": _p("number", "Weight in kilograms.", _whole(45, 120)),
         "height_cm": _p("number", "Height in centimeters.", _whole(145, 205))},
        ("I weigh {weight_kg} kg and am {height_cm} cm tall. What is my BMI?",
         "Compute the body mass index for {weight_kg} kg at {height_cm} cm."),
        returns={"bmi": _decimal(17, 35)},
        says="The body mass index is {bmi}.",
    ),
    Function(
        "health", "set_medication_reminder", "Reminds of a medicine every day.",
        "remind of medicines",
        {"medicine": _p("string", "The medicine.", _of(
            "vitamin D", "iron tablets", "antihistamine", "eye drops")), "time": _TIME},
        ("Remind me to take {medicine} at {time} every day.",
         "Set a daily reminder for {medicine} at {time}."),
    ),
    Function(
        "health", "get_step_count", "Steps of one day.", "look up step counts",
        {"date": _DATE},
        ("How many steps did I take on {date}?", "What was my step count on {date}?"),
        returns={"steps": _whole(1_500, 18_000)},
        says="On {date} you took {steps} steps.",
    ),
    Function(
        "health", "find_doctor", "Finds doctors by specialty.", "find doctors",
        {"specialty": _e("Specialty.", "dermatology", "cardiology", "pediatrics", "dentistry"),
         "city": _CITY},
        ("Find a doctor for {specialty} in {city}.", "I need a {specialty} practice in {city}."),
        {"accepts_new_patients": _p("boolean", "Takes new patients.", _yes("yes"), False)},
        {"accepts_new_patients": "They must accept new patients."},
    ),
    # Shopping
    Function(
        "shopping", "search_products", "Finds products.", "search products",
        {"query": _p("string", "What to look for.", _of(
            "desk lamp", "rain jacket", "noise-cancelling headphones", "cast-iron pan",
            "hiking boots", "coffee grinder"))},
        ("Find me a {query}.", "I'm looking for a {query}.", "Search the shop for '{query}'."),
        {"max_price": _p("number", "Highest price.", _whole(20, 400, 10)),
         "sort_by": _e("Order.", "price", "rating", "newest", default="rating")},
        {"max_price": "It should cost at most {max_price}.", "sort_by": "Sort by {sort_by}."},
    ),
    Function(
        "shopping", "add_to_cart", "Puts a product into the cart.", "add products to the cart",
        {"product_id": _p("string", "Id of the product.", _code("P-"))},
        ("Put {product_id} into my cart.", "Add {product_id} to the cart, please."),
        {"quantity": _p("integer", "How many.", _whole(2, 9), 1)},
        {"quantity": "I need {quantity} of them."},
    ),
    Function(
        "shopping", "track_order", "Where an order is.", "track orders",
        {"order_id": _p("string", "Id of the order.", _code("ORD-"))},
        ("Where is my order {order_id}?", "Track {order_id}.", "When will {order_id} arrive?"),
        lacking=(("Where's my parcel?", "What is the number of your order?"),),
        returns={"status": _of("in transit", "out for delivery", "being packed"), "arrives": _date},
        says="Order {order_id} is {status} and should arrive on {arrives}.",
    ),
    Function(
        "shopping", "return_item", "Starts a return.", "return products",
        {"order_id": _p("string", "Id of the order.", _code("ORD-")),
         "reason": _e("Reason.", "damaged", "wrong_size", "not_needed", "wrong_item")},
        ("I want to return order {order_id}, the reason is {reason}.",
         "Start a return for {order_id}: {reason}."),
    ),
    Function(
        "shopping", "compare_prices", "Compares the prices of two products.", "compare prices",
        {"first_id": _p("string", "Id of one product.", _code("P-")),
         "second_id": _p("string", "Id of the other.", _code("P-"))},
        ("Which is cheaper, {first_id} or {second_id}?", "Compare the prices of {first_id} and {second_id}."),
    ),
    # Maps
    Function(
        "maps", "get_directions", "Directions between two places.", "get directions",
        {"origin": _p("string", "Start.", _of("Central Station", "12 Mill Lane", "the airport", "City Hall")),
         "destination": _p("string", "End.", _of("the museum", "Harbor Square", "the stadium", "8 Oak Street"))},
        ("How do I get from {origin} to {destination}?", "Directions from {origin} to {destination}, please."),
        {"mode": _e("How to travel.", "walking", "driving", "cycling", "transit", default="driving")},
        {"mode": "The way of travel is {mode}."},
        (("How do I get to the museum?", "Where are you starting from?"),),
        {"minutes": _whole(6, 75)},
        "From {origin} to {destination} it takes {minutes} minutes.",
    ),
    Function(
        "maps", "find_nearby", "Places of a kind nearby.", "find places nearby",
        {"kind": _e("Kind of place.", "pharmacy", "gas_station", "atm", "supermarket", "park"),
         "near": _p("string", "Where to look.", _of("Central Station", "Harbor Square", "8 Oak Street"))},
        ("Which {kind} is near {near}?", "Find the closest {kind} to {near}."),
        {"radius_m": _p("integer", "Radius in meters.", _whole(200, 3_000, 100), 1_000)},
        {"radius_m": "Not farther than {radius_m} meters."},
    ),
    Function(
        "maps", "get_traffic", "Traffic on a road.", "check traffic",
        {"road": _p("string", "Name of the road.", _of("A4", "Route 66", "M25", "Ring Road North"))},
        ("How is the traffic on {road}?", "Any jams on {road}?"),
    ),
    Function(
        "maps", "get_distance", "Distance between two cities.", "measure distances",
        {"origin": _CITY, "destination": _CITY},
        ("How far is it from {origin} to {destination}?", "What's the distance between {origin} and {destination}?"),
        {"unit": _e("Unit.", "km", "miles", default="km")},
        {"unit": "In {unit}, please."},
        returns={"distance": _whole(120, 9_000)},
        says="From {origin} to {destination} it is {distance}.",
    ),
    # Work
    Function(
        "work", "create_task", "Creates a task.", "create tasks",
        {"title": _p("string", "Title.", _of(
            "Update the budget sheet", "Order new badges", "Review the contract", "Clean the dataset",
            "Prepare slides"))},
        ("Create a task '{title}'.", "Add '{title}' to my tasks.", "New to-do: '{title}'."),
        {"due": _DATE, "priority": _e("Priority.", "low", "medium", "high", default="medium"),
         "assignee": _PERSON},
        {"due": "It is due on {due}.", "priority": "The priority is {priority}.",
         "assignee": "Assign it to {assignee}."},
    ),
    Function(
        "work", "close_task", "Closes a task.", "close tasks",
        {"task_id": _p("string", "Id of the task.", _code("T-"))},
        ("Close task {task_id}.", "{task_id} is done, close it."),
    ),
    Function(
        "work", "get_time_in_city", "Current time in a city.", "tell the time elsewhere",
        {"city": _CITY},
        ("What time is it in {city}?", "Is it already morning in {city}?"),
        returns={"time": _of("03:12", "09:47", "15:30", "22:05")},
        says="In {city} it is {time}.",
    ),
    Function(
        "work", "translate_text", "Translates a text.", "translate texts",
        {"text": _p("string", "The text.", _of(
            "Where is the station?", "Thank you for your help.", "The meeting starts at nine.",
            "I would like to pay.")),
         "target": _e("Target language.", "french", "german", "italian", "korean", "arabic")},
        ("Translate '{text}' into {target}.", "How do you say '{text}' in {target}?"),
        {"formal": _p("boolean", "In a formal tone.", _yes("yes"), False)},
        {"formal": "Keep it formal."},
    ),
    Function(
        "work", "convert_units", "Converts a quantity between units.", "convert units",
        {"value": _p("number", "Amount.", _decimal(1, 500)),
         "source": _e("From.", "miles", "pounds", "gallons", "inches"),
         "target": _e("To.", "kilometers", "kilograms", "liters", "centimeters")},
        ("Convert {value} {source} to {target}.", "How many {target} are {value} {source}?"),
    ),
    # Files and devices
    Function(
        "files", "search_files", "Finds files by name.", "search files",
        {"name": _p("string", "Part of the name.", _of("invoice", "passport", "thesis", "floor plan", "lecture"))},
        ("Find files with '{name}' in their name.", "Where is my {name} file?"),
        {"type": _e("Kind of file.", "pdf", "image", "spreadsheet", "video"),
         "modified_after": _DATE},
        {"type": "Only {type} files.", "modified_after": "Changed after {modified_after}."},
    ),
    Function(
        "files", "rename_file", "Renames a file.", "rename files",
        {"path": _p("string", "The file.", _of("notes.txt", "draft.docx", "photo.png")),
         "new_name": _p("string", "New name.", _of("final.txt", "report.docx", "cover.png"))},
        ("Rename {path} to {new_name}.", "Call {path} {new_name} from now on."),
    ),
    Function(
        "files", "share_file", "Shares a file with a person.", "share files",
        {"path": _p("string", "The file.", _of("report.docx", "budget.xlsx", "photo.png")),
         "email": _p("string", "With whom.", _email)},
        ("Share {path} with {email}.", "Give {email} access to {path}."),
        {"can_edit": _p("boolean", "May change it.", _yes("yes"), False)},
        {"can_edit": "They should be able to edit it."},
        (("Share the report with Nora.", "What is Nora's email address, and which file is it?"),),
    ),
    Function(
        "files", "get_storage", "Free space of a device.", "check storage",
        {"device": _e("Device.", "laptop", "phone", "tablet", "backup_drive")},
        ("How much space is left on my {device}?", "Is my {device} nearly full?"),
        returns={"free_gb": _whole(3, 800)},
        says="There are {free_gb} GB free on your {device}.",
    ),
    Function(
        "files", "set_volume", "Sets the volume of a device.", "set the volume",
        {"device": _e("Device.", "laptop", "phone", "speaker"), "percent": _p("integer", "0 to 100.", _whole(0, 100, 5))},
        ("Set the volume of my {device} to {percent}%.", "Volume {percent}% on the {device}."),
    ),
)  # fmt: skip

# Ids that one function finds and another needs: finder, key and pool of what it finds, user of it,
# its argument, how both are asked for at once.
CHAINS = (
    ("find_contact", "email", _email, "send_email", "to",
     "Email {name}: the subject is '{subject}' and the text '{body}'"),
    ("search_flights", "flight_id", _code("F-"), "book_flight", "flight_id",
     "Find a flight from {origin} to {destination} on {date} and book the first one for {passenger}."),
    ("find_restaurant", "restaurant_id", _code("R-"), "book_table", "restaurant_id",
     "Find a place with {cuisine} food in {city} and book a table for {people} on {date} at {time}."),
    ("search_products", "product_id", _code("P-"), "add_to_cart", "product_id",
     "Search for a {query} and put the best one into my cart."),
    ("list_events", "event_id", _code("ev-"), "cancel_event", "event_id",
     "Cancel whatever I have in my calendar on {date}."),
    ("find_contact", "email", _email, "share_file", "email",
     "Share {path} with {name}."),
    ("search_emails", "message_id", _code("msg-"), "mark_as_read", "message_id",
     "Find the email about {query} and mark it as read."),
    ("find_free_slot", "start", _of("09:15", "11:30", "14:00"), "create_event", "time",
     "Find {duration_minutes} free minutes on {date} and put '{title}' there."),
    ("list_events", "event_id", _code("ev-"), "move_event", "event_id",
     "Move my appointment on {date} to {new_date}."),
    ("find_contact", "city", _city, "get_current_weather", "city",
     "What is the weather like where {name} lives?"),
    ("find_contact", "city", _city, "get_time_in_city", "city",
     "What time is it for {name} right now?"),
)  # fmt: skip

# Questions that need no tool, and answers.
FACTS = (
    ("What is the capital of Australia?", "The capital of Australia is Canberra."),
    ("How many legs does a spider have?", "A spider has eight legs."),
    ("Who wrote 'Pride and Prejudice'?", "Jane Austen wrote 'Pride and Prejudice'."),
    ("What is 15% of 80?", "15% of 80 is 12."),
    ("Why is the sky blue?", "Air scatters blue light from the sun more than red light, so blue "
     "light reaches us from all over the sky."),
    ("What does 'ubiquitous' mean?", "'Ubiquitous' means present everywhere."),
    ("Give me a synonym for 'happy'.", "A synonym for 'happy' is 'cheerful'."),
    ("How do I boil an egg?", "Put the egg into boiling water: about 6 minutes for a soft egg, "
     "about 10 for a hard one. Then cool it in cold water."),
    ("What is the square root of 144?", "The square root of 144 is 12."),
    ("Name three primary colors.", "Red, yellow and blue are the primary colors in painting."),
    ("What is the largest planet of our solar system?", "Jupiter is the largest planet of our "
     "solar system."),
    ("How do plants make food?", "By photosynthesis: with light they turn water and carbon "
     "dioxide into sugar, and give off oxygen."),
    ("What is the past tense of 'go'?", "The past tense of 'go' is 'went'."),
    ("Which gas do we need to breathe?", "We need oxygen."),
    ("Is a tomato a fruit or a vegetable?", "To a botanist a tomato is a fruit; in the kitchen it "
     "is used as a vegetable."),
    ("What comes after the letter M in the alphabet?", "N comes after M."),
    ("How many minutes are there in a day?", "A day has 1,440 minutes."),
    ("What is H2O?", "H2O is the chemical formula of water."),
    ("Tell me what a haiku is.", "A haiku is a short Japanese poem, in English usually of three "
     "lines with five, seven and five syllables."),
    ("What do bees collect from flowers?", "Bees collect nectar and pollen."),
)  # fmt: skip
